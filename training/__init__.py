"""Training without Spark: supervised fine-tuning and reward models, on one GPU or CPU box or several processes.

Importing this package turns the Hugging Face hub off for the process: models and data come from proven
directories, never from the network.
"""

import os

# Read once when huggingface_hub is imported, so it is set here and not in a function.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The tokenizers' own threads only warn about forks here.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What torch asks for where matrix products are to repeat exactly on CUDA.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
