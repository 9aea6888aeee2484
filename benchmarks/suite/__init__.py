"""The parts of `gpu_suite.py`: a module each, with `run(setting)`; each in a process of its own."""
