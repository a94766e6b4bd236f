"""How far the models are from measurements they were not fitted to."""
