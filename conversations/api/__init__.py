"""The HTTP door: ninja lives here and nowhere else."""
