from sparq_eval.cli import main

main()
