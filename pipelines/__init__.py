"""The round: one file a step, one runner that puts them in order and is alone in touching tables."""
