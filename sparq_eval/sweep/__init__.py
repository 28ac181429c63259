"""Many runs as one: `python -m sparq_eval -m …` is cut into cells of one model and one task, which lose nothing."""
