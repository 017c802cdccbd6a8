"""What is gathered while a hang is still there, and after a crash, so that the cause can be told later.

hang.py     when to look, and the looks: stacks, process states, NCCL's RAS, flight recorder, GPUs
processes.py  what the kernel says of a rank and its data-loader workers
crash.py    who died first and of what: launcher's error files, control group, kernel log
"""

from ftdoctor.launch.forensics.hang import Forensics

__all__ = ["Forensics"]
