"""What the server imports that children are forked from: also what they would import at their first step."""

import accelerate  # noqa: F401
import threadpoolctl
import torch
import torch._dynamo  # the first step of any optimiser does: three seconds

import ontogeny.lab.conduct
import ontogeny.lab.study
import ontogeny.terminal.lab  # noqa: F401

torch.set_num_threads(1)
threadpoolctl.threadpool_limits(1)
