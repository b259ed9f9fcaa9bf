from tests.export.conftest import in_process

__all__ = ["in_process"]
