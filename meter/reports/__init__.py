"""Reports as files: one snapshot of the books, streamed in the form that was asked for.

`files` is the door; each form is one module that knows nothing of HTTP or of what a report means.
"""
