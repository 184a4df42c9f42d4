//! Files between friends (requirement N8), and that a bootstrap keeps nothing of them.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ioex_base::{ContentAddress, Uid};
use ioex_net::{
    MeshEvent, frame,
    proto::{Answer, Content, No, Offer, OfferedFile, Open},
    transfer::{TransferError, TransferInfo, TransferState, pieces::piece_count},
};

use crate::{
    raw::{self, Raw},
    support::{Node, befriend, bootstrap, content, device, device_with, two_friends, until},
};

const MIB: usize = 1024 * 1024;

fn file(node: &Node, name: &str, bytes: &[u8]) -> PathBuf {
    let path = node.dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The next offer of `files` files that came in.
async fn offered(node: &mut Node, from: Uid) -> TransferInfo {
    node.event("an offer", |e| match e {
        MeshEvent::Transfer(t) if t.incoming && t.state == TransferState::Offered && t.with[0].0 == from => {
            Some(t)
        }
        _ => None,
    })
    .await
}

fn state(node: &Node, id: u64) -> TransferState {
    node.mesh.transfer(id).unwrap().state
}

async fn reaches(node: &Node, id: u64, want: TransferState) {
    let what = || format!("transfer becomes {want:?}: {:?}", node.mesh.transfers());
    let started = Instant::now();
    // poll: as in `until`, with the list in the message.
    while state(node, id) != want {
        assert!(started.elapsed() < crate::support::DEADLINE, "{}", what());
        tokio::time::sleep(Duration::from_millis(2)).await; // poll: see above
    }
}

fn received(node: &Node, name: &str) -> Vec<u8> {
    std::fs::read(node.config.receive_dir.join(name)).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Sends one file and accepts it; returns the transfer's numbers at both ends.
async fn send(a: &Node, b: &mut Node, path: &Path) -> (u64, u64) {
    let sent = a.mesh.send_files(&[b.uid()], &[path.to_owned()]).await.unwrap();
    let offer = offered(b, a.uid()).await;
    b.mesh.transfer_accept(offer.id, None).await.unwrap();
    (sent[0].id, offer.id)
}

async fn a_part_is_there(node: &Node, id: u64, bytes: usize) {
    until("a part is there", || node.mesh.transfer(id).unwrap().done_bytes >= bytes as u64).await;
    assert_eq!(state(node, id), TransferState::Active, "it must not be complete yet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_arrives_whole_and_a_bootstrap_keeps_nothing() {
    let (boot, mut a, mut b) = two_friends().await;
    let bytes = content(1, 20 * MIB + 12_345);
    let path = file(&a, "movie.bin", &bytes);
    let started = Instant::now();
    let (at_a, at_b) = send(&a, &mut b, &path).await;
    reaches(&b, at_b, TransferState::Done).await;
    println!("20 MiB after {:?}", started.elapsed());
    reaches(&a, at_a, TransferState::Done).await;
    assert_eq!(received(&b, "movie.bin"), bytes);
    let info = b.mesh.transfer(at_b).unwrap();
    assert_eq!(info.files[0].address, ContentAddress::of(&bytes));
    assert_eq!(
        (info.done_bytes, info.direct_bytes, info.relayed_bytes),
        (bytes.len() as u64, bytes.len() as u64, 0)
    );
    assert_eq!(a.mesh.transfer(at_a).unwrap().done_bytes, bytes.len() as u64);
    assert_eq!(names(&b.config.receive_dir), ["movie.bin"], "no part is left behind");

    // The same over the relay: it passes through the bootstrap.
    let mut c = device_with(&[boot.seed()], |c| c.no_udp = true).await;
    c.joined().await;
    befriend(&mut a, &mut c).await;
    let secret = "a message that no bootstrap may keep or read";
    a.mesh.message_send(&c.uid().to_string(), secret, Duration::from_secs(5)).await.unwrap();
    let (_, at_c) = send(&a, &mut c, &path).await;
    reaches(&c, at_c, TransferState::Done).await;
    assert_eq!(received(&c, "movie.bin"), bytes);
    let info = c.mesh.transfer(at_c).unwrap();
    assert_eq!((info.relayed_bytes, info.direct_bytes), (bytes.len() as u64, 0));

    let (records, contents) = boot.mesh.memory_len();
    assert!(records <= 4 && contents == 0, "{records} records, {contents} contents");
    boot.mesh.shutdown().await;
    let mut kept = Vec::new();
    for name in names(boot.dir.path()) {
        kept.extend(std::fs::read(boot.dir.path().join(name)).unwrap());
    }
    let patterns = [secret.as_bytes(), b"movie.bin", &bytes[..32], &bytes[10 * MIB..10 * MIB + 32]];
    for (n, pattern) in patterns.into_iter().enumerate() {
        assert!(!kept.windows(pattern.len()).any(|w| w == pattern), "pattern {n} is on the bootstrap's disk");
    }
    // The search itself works: a device does keep its messages.
    a.mesh.shutdown().await;
    let own = std::fs::read(a.dir.path().join("mesh.redb")).unwrap();
    assert!(own.windows(secret.len()).any(|w| w == secret.as_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_resume_and_cancel() {
    let (_boot, a, mut b) = two_friends().await;
    let bytes = content(2, 48 * MIB);
    let path = file(&a, "big.bin", &bytes);
    let (at_a, at_b) = send(&a, &mut b, &path).await;
    a_part_is_there(&b, at_b, 4 * MIB).await;
    b.mesh.transfer_pause(at_b).await.unwrap();
    assert_eq!(state(&b, at_b), TransferState::Paused);
    assert!(matches!(b.mesh.transfer_pause(at_b).await, Err(TransferError::State { .. })));
    b.mesh.transfer_resume(at_b).await.unwrap();
    // The sender's owner pauses too: the receiver waits and goes on.
    a_part_is_there(&b, at_b, 8 * MIB).await;
    a.mesh.transfer_pause(at_a).await.unwrap();
    until("the receiver waits", || b.mesh.transfer(at_b).unwrap().error.is_some()).await;
    a.mesh.transfer_resume(at_a).await.unwrap();
    reaches(&b, at_b, TransferState::Done).await;
    reaches(&a, at_a, TransferState::Done).await;
    assert_eq!(received(&b, "big.bin"), bytes);

    let other = file(&a, "other.bin", &content(3, 48 * MIB));
    for receiver_cancels in [true, false] {
        let (at_a, at_b) = send(&a, &mut b, &other).await;
        a_part_is_there(&b, at_b, 2 * MIB).await;
        let (who, id) = if receiver_cancels { (&b, at_b) } else { (&a, at_a) };
        who.mesh.transfer_cancel(id).await.unwrap();
        reaches(&a, at_a, TransferState::Cancelled).await;
        reaches(&b, at_b, TransferState::Cancelled).await;
        until("the part is deleted", || names(&b.config.receive_dir) == ["big.bin"]).await;
        assert!(matches!(b.mesh.transfer_cancel(at_b).await, Err(TransferError::State { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_receiver_fetches_only_what_it_lacks() {
    let (_boot, a, mut b) = two_friends().await;
    let bytes = content(4, 48 * MIB);
    let path = file(&a, "long.bin", &bytes);
    let (at_a, at_b) = send(&a, &mut b, &path).await;
    a_part_is_there(&b, at_b, 12 * MIB).await;
    b.mesh.shutdown().await;
    let had = b.mesh.transfer(at_b).unwrap().done_bytes;
    assert!(had < bytes.len() as u64);
    let b = b.restart().await;
    reaches(&b, at_b, TransferState::Done).await;
    reaches(&a, at_a, TransferState::Done).await;
    let info = b.mesh.transfer(at_b).unwrap();
    println!("{had} bytes were there, {} came after the restart", info.direct_bytes);
    assert!(info.direct_bytes + had <= bytes.len() as u64, "{} + {had}", info.direct_bytes);
    assert_eq!(received(&b, "long.bin"), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_friend_finishes_what_a_vanished_one_began() {
    let (boot, mut a, mut b) = two_friends().await;
    let mut c = device(&[boot.seed()]).await;
    c.joined().await;
    befriend(&mut a, &mut c).await;
    befriend(&mut b, &mut c).await;
    let bytes = content(5, 48 * MIB);
    let (from_a, from_b) = (file(&a, "shared.bin", &bytes), file(&b, "copy.bin", &bytes));
    let (_, at_c) = send(&a, &mut c, &from_a).await;
    a_part_is_there(&c, at_c, 4 * MIB).await;
    a.mesh.shutdown().await;
    let at_b = b.mesh.send_files(&[c.uid()], &[from_b]).await.unwrap()[0].id;
    reaches(&c, at_c, TransferState::Done).await;
    reaches(&b, at_b, TransferState::Done).await;
    let info = c.mesh.transfer(at_c).unwrap();
    assert_eq!(info.with.iter().map(|(uid, _)| *uid).collect::<Vec<_>>(), [a.uid(), b.uid()]);
    assert_eq!(c.mesh.transfers().len(), 1, "the same transfer, not a second one");
    assert_eq!(info.direct_bytes, bytes.len() as u64, "nothing came twice");
    assert_eq!(received(&c, "shared.bin"), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_to_many_and_many_at_once() {
    let (boot, mut a, mut b) = two_friends().await;
    let mut c = device_with(&[boot.seed()], |c| c.auto_accept = true).await;
    c.joined().await;
    befriend(&mut a, &mut c).await;
    let contents: Vec<Vec<u8>> = (0..4).map(|n| content(10 + n, 3 * MIB + n as usize)).collect();
    for (n, bytes) in contents.iter().enumerate() {
        let path = file(&a, &format!("f{n}"), bytes);
        let sent = a.mesh.send_files(&[b.uid(), c.uid()], &[path]).await.unwrap();
        assert_eq!(sent.len(), 2);
    }
    for _ in &contents {
        let offer = offered(&mut b, a.uid()).await;
        b.mesh.transfer_accept(offer.id, None).await.unwrap();
    }
    for id in a.mesh.transfers().iter().map(|t| t.id) {
        reaches(&a, id, TransferState::Done).await;
    }
    assert_eq!(a.mesh.transfers().len(), 8);
    for node in [&b, &c] {
        assert_eq!(node.mesh.transfers().len(), 4);
        for (n, bytes) in contents.iter().enumerate() {
            assert!(received(node, &format!("f{n}")) == *bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_files_go_in_one_transfer() {
    let (_boot, a, mut b) = two_friends().await;
    // Some are empty, some are equal.
    let contents: Vec<Vec<u8>> = (0..200).map(|n| content(n / 2, (n as usize % 7) * 100)).collect();
    let paths: Vec<PathBuf> =
        contents.iter().enumerate().map(|(n, c)| file(&a, &format!("s{n}"), c)).collect();
    let started = Instant::now();
    let sent = a.mesh.send_files(&[b.uid()], &paths).await.unwrap();
    let offer = offered(&mut b, a.uid()).await;
    b.mesh.transfer_accept(offer.id, None).await.unwrap();
    until("it ends", || b.mesh.transfer(offer.id).unwrap().state != TransferState::Active).await;
    let info = b.mesh.transfer(offer.id).unwrap();
    assert_eq!(info.state, TransferState::Done, "{:?}", info.error);
    println!("200 small files after {:?}", started.elapsed());
    reaches(&a, sent[0].id, TransferState::Done).await;
    for (n, bytes) in contents.iter().enumerate() {
        assert_eq!(received(&b, &format!("s{n}")), *bytes);
    }
    assert_eq!(names(&b.config.receive_dir).len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_with_files_are_named() {
    let (_boot, a, mut b) = two_friends().await;
    let path = file(&a, "taken", b"new");
    let sent = a.mesh.send_files(&[b.uid()], std::slice::from_ref(&path)).await.unwrap()[0].id;
    let offer = offered(&mut b, a.uid()).await;
    std::fs::create_dir_all(&b.config.receive_dir).unwrap();
    std::fs::write(b.config.receive_dir.join("taken"), b"mine").unwrap();
    let taken = b.mesh.transfer_accept(offer.id, None).await;
    assert!(matches!(taken, Err(TransferError::Place(_))), "{taken:?}");
    assert_eq!(received(&b, "taken"), b"mine");
    let elsewhere = b.dir.path().join("elsewhere");
    b.mesh.transfer_accept(offer.id, Some(elsewhere.clone())).await.unwrap();
    reaches(&b, offer.id, TransferState::Done).await;
    assert_eq!(std::fs::read(elsewhere.join("taken")).unwrap(), b"new");
    reaches(&a, sent, TransferState::Done).await;

    let folder = a.mesh.send_files(&[b.uid()], &[a.dir.path().to_owned()]).await;
    assert!(matches!(folder, Err(TransferError::NotAFile(_))), "{folder:?}");
    assert!(matches!(a.mesh.send_files(&[], std::slice::from_ref(&path)).await, Err(TransferError::Nothing)));
    assert!(matches!(a.mesh.send_files(&[a.uid()], &[path]).await, Err(TransferError::NotFriend(_))));

    // A file that changed after it was offered is not sent as something else.
    let path = file(&a, "changing", &content(1, MIB));
    a.mesh.send_files(&[b.uid()], &[path]).await.unwrap();
    let offer = offered(&mut b, a.uid()).await;
    file(&a, "changing", &content(2, MIB));
    b.mesh.transfer_accept(offer.id, None).await.unwrap();
    until("the sender is warned", || a.mesh.warnings().iter().any(|w| w.contains("changing"))).await;
    assert!(!b.config.receive_dir.join("changing").exists());
    let kept = b.mesh.transfer_cancel(offer.id).await.unwrap();
    assert_eq!(kept.state, TransferState::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_sizes_and_bytes_do_no_harm() {
    let boot = bootstrap(&[]).await;
    let mut b = device(&[boot.seed()]).await;
    let (raw, conn) = Raw::befriended(&b.mesh).await;
    let address = ContentAddress::of(b"x");
    let offer = |id: u8, files: Vec<(&str, u64, ContentAddress)>| {
        let files =
            files.into_iter().map(|(name, size, address)| OfferedFile { name: name.into(), size, address });
        Open::Offer(Offer { id: [id; 16], files: files.collect() })
    };
    for name in ["", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\nb", "a\u{202e}b", &"x".repeat(256)] {
        assert_eq!(
            raw::refusal(&conn, &offer(1, vec![(name, 1, address)])).await,
            No::BadRequest,
            "{name:?}"
        );
    }
    assert_eq!(raw::refusal(&conn, &offer(1, vec![])).await, No::BadRequest);
    let twice = offer(1, vec![("a", 1, address), ("a", 1, address)]);
    assert_eq!(raw::refusal(&conn, &twice).await, No::BadRequest);
    let endless = offer(1, vec![("a", u64::MAX, address), ("b", 2, address)]);
    assert_eq!(raw::refusal(&conn, &endless).await, No::BadRequest);
    assert!(b.mesh.transfers().is_empty());

    // Sizes and bytes that are not what the address says. The real content has three pieces.
    let bytes = content(7, 2 * MIB + 5);
    let address = ContentAddress::of(&bytes);
    let claimed = bytes.len() as u64 + MIB as u64;
    let lies = offer(2, vec![("lies", claimed, address), ("wrong", bytes.len() as u64, address)]);
    assert_eq!(raw::ask::<()>(&conn, &lies).await, Ok(Answer::Yes(())));
    let info = offered(&mut b, raw.uid()).await;
    let serving = conn.clone();
    let good = bytes.clone();
    tokio::spawn(async move {
        while let Ok((mut send, mut recv)) = serving.accept_bi().await {
            let open: Open = frame::read(&mut recv, 10_000).await.unwrap();
            let Open::FetchOffered(fetch) = open else {
                let _ = frame::write(&mut send, &Answer::Yes(())).await;
                continue;
            };
            match fetch.want {
                // The list of the real content, whatever size was claimed.
                ioex_net::proto::Want::Pieces => {
                    let (_, list) =
                        ioex_net::transfer::pieces::PieceList::of(&good[..], |_| (), good.len() as u64)
                            .unwrap();
                    let follows = piece_count(good.len() as u64) * 32;
                    let head = Content { size: good.len() as u64, follows };
                    let _ = frame::write(&mut send, &Answer::Yes(head)).await;
                    let _ = send.write_all(&list.to_bytes()).await;
                }
                ioex_net::proto::Want::Range { start, len } => {
                    let head = Content { size: good.len() as u64, follows: len };
                    let _ = frame::write(&mut send, &Answer::Yes(head)).await;
                    let mut part = good[start as usize..(start + len) as usize].to_vec();
                    part[0] ^= 1;
                    let _ = send.write_all(&part).await;
                }
                ioex_net::proto::Want::All => panic!("who wants a file knows its size"),
            }
            let _ = send.finish();
        }
    });
    b.mesh.transfer_accept(info.id, None).await.unwrap();
    until("the lie is seen", || {
        b.mesh.transfer(info.id).unwrap().error.is_some_and(|e| e.contains("wrong bytes"))
    })
    .await;
    assert_eq!(state(&b, info.id), TransferState::Active, "it waits for somebody honest");
    let visible: Vec<String> =
        names(&b.config.receive_dir).into_iter().filter(|n| !n.starts_with('.')).collect();
    assert!(visible.is_empty(), "{visible:?}");
}
