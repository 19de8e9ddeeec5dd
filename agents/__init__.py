"""Stable-Baselines3 agents, baselines, scripts and the command line of taskrl."""
