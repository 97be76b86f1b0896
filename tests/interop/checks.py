"""One line for each check of a suite, as `script/interop` counts them."""

import asyncio
import sys

failed = False


def check(step):
    """Runs one check; it fails by an exception, and its first line of documentation is its name."""
    run(step.__doc__, step)


def run(name, step, *arguments):
    global failed
    try:
        asyncio.run(step(*arguments)) if asyncio.iscoroutinefunction(step) else step(*arguments)
    except Exception as error:  # Whatever goes wrong, the other checks go on.
        failed = True
        print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
    else:
        print(f"ok      {name}", flush=True)


def end():
    """The end of a suite: without its line `script/interop` counts the suite as broken off."""
    print("ended", flush=True)
    sys.exit(1 if failed else 0)
