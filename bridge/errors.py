"""What comes out of groups of exceptions.  (pure)"""


def first_error(error: BaseException) -> BaseException:
    """Return the first exception inside a group, however deep; one that is no group, as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
