"""What the server imports that children are forked from."""

import threadpoolctl
import torch

import ontogeny.lab.conduct
import ontogeny.lab.study
import ontogeny.terminal.lab  # noqa: F401

torch.set_num_threads(1)
threadpoolctl.threadpool_limits(1)
