"""Pretraining of the toy objective in float64: `python -m tests.toy.double CONFIG …`."""

import sys

from mae.objectives import registry
from mae.pretrain import main
from tests.toy import implementation

registry.OBJECTIVES["toy"] = "tests.toy"
build = implementation.ToyImplementation.build
implementation.ToyImplementation.build = lambda self, config: build(self, config).double()

if __name__ == "__main__":
    sys.exit(main())
