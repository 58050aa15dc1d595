"""structlog without rich.

It imports rich wherever it is installed, to draw tracebacks with. Nobody here asks it to, and that was a tenth of what
a process takes to start.
"""

import sys
import threading
from typing import cast

__all__ = ["structlog"]

# Another thread could be about to import it.
_hidden = "rich" not in sys.modules and threading.active_count() == 1
if _hidden:
    cast(dict[str, object], sys.modules)["rich"] = None
try:
    import structlog
finally:
    if _hidden:
        del sys.modules["rich"]
