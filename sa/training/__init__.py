"""The training loop and its parts: schedules, averages, optimizers, replicas, ranks."""
