"""How a model learns: objectives, optimizers, schedules, precision, and the loop."""
