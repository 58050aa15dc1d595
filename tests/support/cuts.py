"""Where to cut an answer off, if not at every byte."""


def telling_cuts(answer: bytes, step: int) -> list[int]:
    """Return the places round the end of each line, where a reader's view of what it has changes, and each `step`-th.

    None is the whole answer.
    """
    ends = {at + 1 for at, byte in enumerate(answer) if byte == ord("\n")}
    places = {end + beside for end in ends for beside in (-2, -1, 0, 1)}
    return sorted(place for place in {*range(0, len(answer), step), *places} if 0 <= place < len(answer))
