"""The page of `emag web`: values and functions first, then one job on the model, then the page and the server around them.

    stack.py, controls.py        a guidance as text, as rules and as what a person moves
    adding.py                    a method added to a guidance: where, or why not
    palette.py, order.py         the list of methods, what cannot work greyed; the list of rules, to be dragged
    model.py, price.py           a loaded model, what it refuses, what a run on it costs
    watch.py, job.py, stream.py  one run: seen step by step, stopped at any step, told of from another thread
    dropped.py, told.py          settings read from a PNG; the same settings as a command and as Python
    row.py, plots.py, truth.py   strengths and seeds in one picture; what a run did, drawn; what is right in a picture
    blind.py, explore.py         which of two recipes is liked better; how far each block reaches
    album.py                     the pictures of a session
    page/                        Gradio: only layout and wires
    guard.py, payload.py         who is answered; which files a request may name
    server.py                    where the page is
"""
