"""The scan on TPUs, in Pallas; launch.py is the implementation."""
