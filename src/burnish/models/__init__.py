"""Where models come from, how they are adapted, and what they answer."""

import logging

# Where bitsandbytes is installed, peft imports it, and on some CPUs it then recommends a package.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
