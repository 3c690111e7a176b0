"""One of two processes that fail; started by `test_process_group.py`.

python -m tests.multi_process.process_group_worker RUN_DIR one      process 1 fails, process 0 waits for it
python -m tests.multi_process.process_group_worker RUN_DIR both     both fail alike
"""

import sys
from pathlib import Path

import tests.conftest  # noqa: F401  (the same devices and flags as in the tests)

import jax  # isort: skip  (after the environment is set)
from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.parallel.distributed import barrier
from slap_jax.parallel.process_group import process_group

if __name__ == "__main__":
    run_dir, who = sys.argv[1:]
    with process_group(ConfigDict({"initialization_timeout": 120, "heartbeat_timeout": 10}), Path(run_dir)):
        if who == "both" or jax.process_index() == 1:
            raise ConfigError("config.nonsense is 3; write 4")
        barrier("which process 1 never reaches")
