def ordered(log, conflicts):
    return True
