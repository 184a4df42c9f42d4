"""One libtorrent peer for the lab.

    torrent.py make FILE TORRENT
    torrent.py seed TORRENT FOLDER
    torrent.py fetch TORRENT FOLDER ADDRESS...

`seed` and `fetch` print READY when they listen. `fetch` begins when it gets a line, and prints DONE when all
pieces are there and verified. Both go on serving until their standard input ends.
"""

import os
import sys
import threading

import libtorrent as lt

PORT = 6881

# Settings are libtorrent's own but for what looks for peers outside of the lab, and uTP, which yields to
# everything else on a line; no encryption.
SETTINGS = {
    "listen_interfaces": "0.0.0.0:%d" % PORT,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
}


def make(path, torrent):
    files = lt.file_storage()
    lt.add_files(files, path)
    creator = lt.create_torrent(files)
    lt.set_piece_hashes(creator, os.path.dirname(path))
    with open(torrent, "wb") as out:
        out.write(lt.bencode(creator.generate()))


def add(session, torrent, folder, addresses, seed):
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = folder
    params.peers = [(address, PORT) for address in addresses]
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if seed:
        params.flags |= lt.torrent_flags.seed_mode
    return session.add_torrent(params)


def serve(role, torrent, folder, addresses):
    session = lt.session(SETTINGS)
    ended = threading.Event()
    told = threading.Event()

    def read():
        for _ in sys.stdin:
            told.set()
        ended.set()
        told.set()

    threading.Thread(target=read, daemon=True).start()
    if role == "seed":
        add(session, torrent, folder, [], True)
    print("READY", flush=True)
    if role == "fetch":
        told.wait()
        add(session, torrent, folder, addresses, False)
    while not ended.is_set():
        session.wait_for_alert(200)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.torrent_finished_alert) and role == "fetch":
                print("DONE", flush=True)
            elif isinstance(alert, (lt.listen_failed_alert, lt.torrent_error_alert)):
                sys.exit(alert.message())


def main():
    role, rest = sys.argv[1], sys.argv[2:]
    if role == "make":
        make(*rest)
    else:
        serve(role, rest[0], rest[1], rest[2:])


main()
