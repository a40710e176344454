"""``python -m bootstrap``: the program from a checkout."""

from .cli import entry
from .host.processes import interrupts_end

interrupts_end()  # the archive's header does it earlier
entry()
