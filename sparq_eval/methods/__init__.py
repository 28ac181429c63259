"""One file, one method."""

from sparq_eval.methods.dense import Dense
from sparq_eval.methods.flexgen import FlexGen
from sparq_eval.methods.h2o import H2O
from sparq_eval.methods.lm_infinite import LMInfinite
from sparq_eval.methods.method import Attended, Method, Shape, State
from sparq_eval.methods.sparq import SparQ

__all__ = ["H2O", "Attended", "Dense", "FlexGen", "LMInfinite", "Method", "Shape", "SparQ", "State"]
