"""The program `charlm`, also `python -m charlm_jax`."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `leave_at_signals`: without a traceback


def main() -> int:
    """Run one command; returns the exit status.

    Signals are handled before anything else is imported.
    """
    from charlm_jax.core.signals import leave_at_signals

    leave_at_signals("charlm")
    from charlm_jax.cli import main as run_command

    return run_command()


if __name__ == "__main__":
    raise SystemExit(main())
