"""The job server: `sam3d serve`. One FastAPI application, one SQLite file, one folder of files, one supervised worker for each GPU.

    gate.py        in front of everything: who may call, how large, how slow; the headers of every answer
    api/           the calls of /api/v1, thin; models.py says what they take and give
    store.py       jobs, batches and events in SQLite; states.py has the table of legal transitions
    vault.py       pictures, masks, requests and results as files, named by their content
    room.py        memory, shared out before it is used; aside.py: large answers of workers on the disk; descriptors.py: open files
    dispatcher.py  takes jobs off the queue; slot.py is one worker with its thread, one for each GPU. Attempts are counted here and nowhere else
    keeper.py      retention, the disk quota, files that nobody refers to
    service.py     ties these together, and is all that the calls see

docs/server.md is for those who run it, docs/api.md for those who call it.
"""
