"""Speed and memory, as ratios taken in one run; `docs/performance.md` says what they mean."""
