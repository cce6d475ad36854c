"""Running scenarios: each in its own process, with limits, a seed and a scratch folder."""
