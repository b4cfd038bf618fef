"""`python -m charlm_jax` is `charlm`."""

from charlm_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
