"""Tracebacks out of mixed streams."""

from __future__ import annotations

import itertools
import textwrap

from ftdoctor.events import Event, TracebackSeen
from ftdoctor.parsing.router import Router, Vocabulary

VOCABULARY = Vocabulary([])


def read(log: str) -> list[TracebackSeen]:
    router = Router("x.log", VOCABULARY, itertools.count(1))
    events: list[Event] = [*router.feed(textwrap.dedent(log).encode()), *router.finish()]
    return [e for e in events if isinstance(e, TracebackSeen)]


def test_plain() -> None:
    (found,) = read("""\
        before
        Traceback (most recent call last):
          File "/home/user/ft/train.py", line 12, in <module>
            main()
          File "/usr/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1511, in _wrapped_call_impl
            return self._call_impl(*args, **kwargs)
                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        RuntimeError: Expected all tensors to be on the same device,
        but found at least two devices

        after
        """)
    assert found.type == "RuntimeError"
    assert found.message == "Expected all tensors to be on the same device,\nbut found at least two devices"
    assert [(f.line, f.function, f.code) for f in found.frames] == [
        (12, "<module>", "main()"),
        (1511, "_wrapped_call_impl", "return self._call_impl(*args, **kwargs)"),
    ]
    assert (found.origin.line, found.line_last) == (2, 9)


def test_interleaved_ranks() -> None:
    found = read("""\
        [rank1]: Traceback (most recent call last):
        [rank0]: Traceback (most recent call last):
        [rank1]:   File "/a.py", line 1, in f
        [rank0]:   File "/b.py", line 2, in g
        [rank0]:     g()
        [rank1]:     f()
        [rank0]: KeyError: 'text'
        [rank1]: ValueError: one
        """)
    assert {(t.origin.rank, t.type, t.frames[0].file) for t in found} == {
        (1, "ValueError", "/a.py"),
        (0, "KeyError", "/b.py"),
    }


def test_interleaved_without_prefix_keeps_both_exceptions() -> None:
    found = read("""\
        Traceback (most recent call last):
        Traceback (most recent call last):
          File "/a.py", line 1, in f
          File "/a.py", line 1, in f
            f()
            f()
        ImportError: undefined symbol
        ImportError: undefined symbol
        """)
    assert [t.type for t in found] == ["ImportError", "ImportError"]


def test_chain_marks_what_followed() -> None:
    first, second = read("""\
        Traceback (most recent call last):
          File "/a.py", line 1, in f
        KeyError: 'x'

        During handling of the above exception, another exception occurred:

        Traceback (most recent call last):
          File "/a.py", line 3, in f
        RuntimeError: wrapped
        """)
    assert (first.type, first.chained) == ("KeyError", False)
    assert (second.type, second.chained) == ("RuntimeError", True)


def test_an_unrelated_second_traceback_is_not_chained() -> None:
    found = read("""\
        Traceback (most recent call last):
          File "/a.py", line 1, in f
        KeyError: 'x'
        some log line
        Traceback (most recent call last):
          File "/a.py", line 3, in f
        RuntimeError: other
        """)
    assert [t.chained for t in found] == [False, False]


def test_rich_box() -> None:
    (found,) = read("""\
        ╭───────────────────── Traceback (most recent call last) ──────────────────────╮
        │ /home/user/ft/train.py:88 in main                                            │
        │                                                                              │
        │ ❱ 88     trainer.train()                                                     │
        │ /opt/conda/lib/python3.10/site-packages/torch/autograd/__init__.py:200 in    │
        │ backward                                                                     │
        ╰──────────────────────────────────────────────────────────────────────────────╯
        RuntimeError: element 0 of tensors does not require grad
        """)
    assert found.type == "RuntimeError"
    assert found.frames[0].file == "/home/user/ft/train.py"


def test_cut_off_at_the_end_of_the_log() -> None:
    (found,) = read("""\
        Traceback (most recent call last):
          File "/a.py", line 1, in f
            f()
        """)
    assert (found.type, found.frames[0].function) == ("", "f")


def test_exception_without_message() -> None:
    (found,) = read("""\
        Traceback (most recent call last):
          File "/a.py", line 1, in f
            f()
        KeyboardInterrupt
        """)
    assert found.type == "KeyboardInterrupt"


def test_what_stands_before_the_header_is_taken_off_the_lines_below() -> None:
    (found,) = read("""\
        2023-04-29 06:01:12.977 [177/train/578 (pid 28936)] ERROR main failed
        2023-04-29 06:01:12.977 [177/train/578 (pid 28936)] Traceback (most recent call last):
        2023-04-29 06:01:12.979 [177/train/578 (pid 28936)]   File "/ft/train.py", line 379, in save
        2023-04-29 06:01:12.979 [177/train/578 (pid 28936)]     _save(obj)
        2023-04-29 06:01:12.979 [177/train/578 (pid 28936)] OSError: [Errno 28] No space left on device
        """)
    assert (found.type, found.frames[0].line, found.frames[0].code) == ("OSError", 379, "_save(obj)")


def test_a_traceback_without_its_header() -> None:
    (found,) = read("""\
        some line
          File "/ft/data.py", line 3, in read
            value = self.data[key]
        [rank0]: unrelated
        KeyError: 'messages'  \n""")
    assert (found.type, found.message, found.origin.line) == ("KeyError", "'messages'", 2)


def test_frames_that_no_exception_follows_are_no_traceback() -> None:
    assert not read("""\
        Stack of the main thread:
          File "/ft/data.py", line 3, in read
            value = self.data[key]
        done
        step 1
        """)


def test_notebook_frames() -> None:
    (found,) = read("""\
        ---------------------------------------------------------------------------
        OutOfMemoryError                          Traceback (most recent call last)
        Cell In[8], line 1
        ----> 1 trainer.train()
        File /opt/conda/lib/python3.9/site-packages/transformers/trainer.py:1591, in Trainer.train(self)
           1590     x
        OutOfMemoryError: CUDA out of memory.
        """)
    assert (found.type, found.frames[-1].line) == ("OutOfMemoryError", 1591)
    assert found.frames[0].file == "Cell In[8]"


def test_a_log_record_ends_the_message() -> None:
    (found,) = read("""\
        Traceback (most recent call last):
          File "/a.py", line 1, in f
        AssertionError: messages: []
        [ERROR:swift] There are errors in the dataset
        """)
    assert found.message == "messages: []"


def test_an_indented_traceback() -> None:
    (found,) = read(
        "some text\n"
        + textwrap.indent(
            textwrap.dedent("""\
        Traceback (most recent call last):
          File "/a.py", line 1, in f
            f()
        KeyError: 'question'
        """),
            "    ",
        )
    )
    assert (found.type, found.frames[0].code) == ("KeyError", "f()")


def test_what_python_ignored_is_no_traceback() -> None:
    assert not read("""\
        Exception ignored in: <function Iterator.__del__ at 0x7f>
        Traceback (most recent call last):
          File "/a.py", line 1, in __del__
            f()
        AssertionError: can only test a child process
        """)
