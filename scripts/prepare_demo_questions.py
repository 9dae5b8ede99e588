"""Write real question sets: `neuron_opsd.commands.demo_questions`, which says what they are.

python scripts/prepare_demo_questions.py OUT_DIR [--only openbookqa,medmcqa]
"""

from neuron_opsd.commands.demo_questions import main

if __name__ == "__main__":
    main()
