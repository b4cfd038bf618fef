"""Powers of two, to which lengths are rounded so that few shapes are compiled."""


def next_power_of_two(number: int) -> int:
    """Return the smallest power of two >= a positive number.

    >>> [next_power_of_two(number) for number in (1, 5, 8)]
    [1, 8, 8]
    """
    return 1 << (number - 1).bit_length()
