"""A log of its own for each rank, from inside the rank, while its output goes where it went before.

The heartbeat plugin calls `begin(FOLDER)`. File descriptors 1 and 2 of the rank then lead into one pipe, so their order
stays. A small process of its own reads it, appends to FOLDER/rankN.log, and passes the same bytes on to where they
went before. A process, not a thread: the last words of a rank that dies of a signal are in the pipe, and are written.

The trainer must not suffer: a full disk loses lines and nothing else, the reader ignores every signal that a stop
sends, and where it dies all the same, `mend` puts the old descriptors back and writes what was on its way. The rank
keeps the read end open until then, so that no write ever meets a broken pipe.

    python -I -S ftdoctor_rank_log.py FILE     the reader: standard input to FILE and to standard output
"""

# mypy: ignore-errors
# ruff: noqa: UP031, SIM105
import os
import signal
import subprocess
import sys

TEE = "FTDOCTOR_TEE"  # in the environment of the readers: the run's id
RUN = "FTDOCTOR_RUN_ID"
CHUNK = 1 << 16


class Split:
    """Output that is split; `mend` is called now and then by a thread of the rank."""

    def __init__(self, path):
        self.pid = os.getpid()
        self.read, write = os.pipe()
        self.before = os.dup(1)
        command = [sys.executable, "-I", "-S", os.path.abspath(__file__), path]
        environment = {TEE: os.environ.get(RUN, ""), "LC_ALL": "C"}
        self.reader = subprocess.Popen(
            command, stdin=self.read, stdout=self.before, stderr=subprocess.DEVNULL, env=environment, cwd="/",
            start_new_session=True, close_fds=True,
        )  # fmt: skip
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)

    def mend(self):
        """Where the reader has died, the rank writes to the old place again; True then."""
        if os.getpid() != self.pid or self.reader is None or self.reader.poll() is None:
            return False
        self.reader = None
        os.dup2(self.before, 1)
        os.dup2(self.before, 2)
        os.set_blocking(self.read, False)
        try:
            while data := os.read(self.read, CHUNK):
                write_all(self.before, data)
        except OSError:  # nothing more is there
            pass
        os.close(self.read)
        return True


def begin(folder):
    """Split this rank's output; None where that cannot be, and everything is as it was."""
    if not folder or os.environ.get("RANK") is None or not os.path.samestat(os.fstat(1), os.fstat(2)):
        return None  # two places cannot be kept apart and in order at the same time
    os.makedirs(folder, exist_ok=True)
    return Split(os.path.join(os.path.abspath(folder), "rank%d.log" % int(os.environ["RANK"])))


def write_all(place, data):
    """Every byte, or an OSError."""
    while data:
        data = data[os.write(place, data) :]


def main(path):
    """Read until the last writer is gone. The file comes first: a line that is read elsewhere is in it already."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    own = None
    while data := os.read(0, CHUNK):
        try:
            if own is None:
                own = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            write_all(own, data)
        except OSError:
            pass  # a full disk: the rank goes on
        try:
            write_all(1, data)
        except OSError:
            pass


if __name__ == "__main__":
    main(sys.argv[1])
