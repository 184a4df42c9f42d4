use ioex_base::{NodeKey, limits::SHARD_LIFE_SECONDS};

use super::{
    hearsay::{HEARSAY_MAX, Hearsay},
    *,
};

const NOW: UnixSeconds = UnixSeconds(1_000);

fn word(say: Say) -> Word {
    Word { say, reader: Uid::from_bytes([9; 32]), now: NOW }
}

/// What `from` knows of a group, told to `to`.
fn give(from: &Book, to: &Book, id: &ContentAddress, say: Say) {
    let record = from.exchanged(id).unwrap().unwrap();
    to.merge(&[record], word(say)).unwrap();
}

/// What came of asking those devices of which partners said something.
fn find(book: &Book, finding: impl Fn(&Heard) -> Finding) {
    for heard in book.hearsay().unwrap() {
        book.change(|c| c.found(&heard, finding(&heard))).unwrap();
    }
}

fn heard(book: &Book) -> Vec<(u16, Uid, Hearsay)> {
    book.hearsay().unwrap().iter().map(|h| (h.shard, h.device, h.what)).collect()
}

fn device(n: u8) -> Uid {
    Uid::from_bytes([n; 32])
}

fn copy(shard: u16, n: u8) -> CopyRecord {
    CopyRecord { shard, device: device(n), failed: false }
}

fn group(n: u8) -> GroupRecord {
    let shard = |n| ShardRef { address: ContentAddress::from_bytes([n; 32]), bytes: 16_384 };
    GroupRecord {
        redundancy: Redundancy::new(2, 3, 4, 4).unwrap(),
        data: vec![shard(n), shard(n + 1)],
        parity: vec![shard(n + 2)],
        reader: Uid::from_bytes([9; 32]),
        expires: UnixSeconds(1_000),
        copies: vec![CopyRecord { shard: 0, device: Uid::from_bytes([3; 32]), failed: false }],
    }
}

#[test]
fn golden_bytes_of_a_group() {
    let mut want = vec![1, 2, 3, 4, 4, 2];
    for n in [7, 8] {
        want.extend([n; 32]);
        want.extend([0x80, 0x80, 1]);
    }
    want.push(1);
    want.extend([9; 32]);
    want.extend([0x80, 0x80, 1]);
    want.extend([9; 32]);
    want.extend([0xe8, 7, 1, 0]);
    want.extend([3; 32]);
    want.push(0);
    assert_eq!(encode(&group(7)), want);
}

/// A backup that only wants more copies of what it shares changes nothing else of a group.
#[test]
fn that_more_copies_are_wanted_reaches_partners() {
    let dir = tempfile::tempdir().unwrap();
    let (owner, other) =
        (Book::open(&dir.path().join("a")).unwrap(), Book::open(&dir.path().join("b")).unwrap());
    let (one, three) = (Redundancy::replicas(1).unwrap(), Redundancy::replicas(3).unwrap());
    let of = group(1);
    let base = GroupRecord { redundancy: one, data: of.data[..1].to_vec(), parity: Vec::new(), ..of };
    let id = base.id().unwrap();
    owner.change(|c| c.put_group(&base)).unwrap();
    give(&owner, &other, &id, Say::Owner);
    let agree = || owner.buckets().unwrap() == other.buckets().unwrap();
    assert!(agree());
    owner.change(|c| c.update_group(&id, |g| g.raise_to(three))).unwrap();
    assert!(!agree());
    give(&owner, &other, &id, Say::Owner);
    assert!(agree());
    assert_eq!(other.group(&id).unwrap().unwrap().own_redundancy(), three);
}

#[test]
fn partners_agree_about_a_group_and_no_copy_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let book = |name: &str| Book::open(&dir.path().join(name)).unwrap();
    let (owner, other) = (book("a"), book("b"));
    let base = group(1);
    let id = base.id().unwrap();
    let agree = || owner.buckets().unwrap() == other.buckets().unwrap();
    let give = |from: &Book, to: &Book, say| give(from, to, &id, say);
    owner.change(|c| c.put_group(&base)).unwrap();
    give(&owner, &other, Say::Copies);
    assert!(other.group(&id).unwrap().is_none(), "only the owner brings groups");
    give(&owner, &other, Say::Owner);
    assert!(agree());
    // Both repair at the same time.
    owner.change(|c| c.update_group(&id, |g| g.copies.push(copy(1, 4)))).unwrap();
    other.change(|c| c.update_group(&id, |g| g.copies.push(copy(2, 5)))).unwrap();
    assert!(!agree());
    give(&other, &owner, Say::Adopt);
    give(&owner, &other, Say::Owner);
    find(&owner, |_| Finding::Holds);
    assert!(agree());
    assert_eq!(other.group(&id).unwrap().unwrap().copies.len(), 3);
    // One moves a copy while the other writes down something older: the copy stays moved.
    let older = owner.group(&id).unwrap().unwrap();
    let moves = |g: &mut GroupRecord| {
        g.copies.retain(|c| c.device != device(3));
        g.copies.push(copy(0, 6));
    };
    other.change(|c| c.update_group(&id, moves)).unwrap();
    give(&other, &owner, Say::Adopt);
    let later = GroupRecord { expires: UnixSeconds(2_000), ..older };
    owner.change(|c| c.note_group(&later)).unwrap();
    give(&owner, &other, Say::Owner);
    let known = other.group(&id).unwrap().unwrap();
    assert_eq!(known.expires, UnixSeconds(2_000));
    assert!(known.copies.contains(&copy(0, 6)), "{known:?}");
    find(&owner, |h| if h.device == device(3) { Finding::Lacks } else { Finding::Holds });
    assert!(owner.group(&id).unwrap().unwrap().copies.contains(&copy(0, 6)));
    assert!(agree());
    // An older date says nothing.
    other.change(|c| c.update_group(&id, |g| g.expires = UnixSeconds(5))).unwrap();
    give(&other, &owner, Say::Adopt);
    assert_eq!(owner.group(&id).unwrap().unwrap().expires, UnixSeconds(2_000));
    // Only the owner says what is removed.
    owner.change(|c| c.remove_group(&id)).unwrap();
    give(&other, &owner, Say::Adopt);
    assert!(owner.was_removed(&id).unwrap() && owner.group(&id).unwrap().is_none());
    owner.change(|c| c.forget_removed(files::now().plus(1))).unwrap();
    give(&other, &owner, Say::Adopt);
    assert!(owner.group(&id).unwrap().is_some(), "an heir learns what was stored");
}

#[test]
fn what_was_given_up_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let book = |name: &str| Book::open(&dir.path().join(name)).unwrap();
    let (a, b) = (book("a"), book("b"));
    let base = group(1);
    let id = base.id().unwrap();
    for book in [&a, &b] {
        book.change(|c| c.put_group(&base)).unwrap();
    }
    a.change(|c| c.update_group(&id, |g| g.copies.clear())).unwrap();
    give(&b, &a, &id, Say::Copies);
    assert!(a.group(&id).unwrap().unwrap().copies.is_empty() && heard(&a).is_empty());
    give(&a, &b, &id, Say::Owner);
    assert!(b.group(&id).unwrap().unwrap().copies.is_empty());
    // The same device may get it again.
    b.change(|c| c.put_group(&base)).unwrap();
    assert!(b.exchanged(&id).unwrap().unwrap().0.is_empty());
}

/// This node wrote a list of restore points while it asked others for theirs.
#[test]
fn an_older_head_does_not_take_the_place_of_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::open(&dir.path().join("book")).unwrap();
    let key = NodeKey::from_seed([1; 32]);
    for (seq, stands) in [(5, 5), (7, 7), (6, 7), (8, 8)] {
        let head = SealedHead::sign(&key, seq, b"head");
        book.change(|c| c.put_newer_head(&head, seq)).unwrap();
        assert_eq!(SealedHead::open(&book.head().unwrap().unwrap()).unwrap().seq, stands);
    }
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book");
    let book = Book::open(&path).unwrap();
    book.change(|c| {
        c.put_group(&group(1))?;
        c.put_group(&group(5))?;
        c.add_pending(&Segment::default())?;
        c.add_pending(&Segment::default())?;
        c.put_head(b"head")
    })
    .unwrap();
    let failed: Result<(), _> = book.change(|c| {
        c.clear()?;
        Err(BookError::Version(9))
    });
    assert!(failed.is_err());
    drop(book);
    let book = Book::open(&path).unwrap();
    assert_eq!(book.pending().unwrap().len(), 2);
    assert_eq!(book.head().unwrap().unwrap(), b"head");
    let mut seen = 0;
    book.each_group(|id, g| {
        assert_eq!(g.id(), Some(id));
        seen += 1;
    })
    .unwrap();
    assert_eq!(seen, 2);
    assert_eq!(group(1).shard(2).map(|s| s.address), Some(ContentAddress::from_bytes([3; 32])));
    book.change(|c| c.remove_group(&ContentAddress::from_bytes([5; 32]))).unwrap();
    assert!(book.group(&ContentAddress::from_bytes([5; 32])).unwrap().is_none());
    let numbered = book.pending_numbered().unwrap();
    book.change(|c| c.remove_pending(&[numbered[0].0])).unwrap();
    assert_eq!(book.pending_numbered().unwrap(), numbered[1..]);
    book.change(Changes::clear_pending).unwrap();
    assert!(book.pending().unwrap().is_empty());
}

#[test]
fn what_is_needed_again_is_not_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::open(&dir.path().join("book")).unwrap();
    let base = group(1);
    let (address, device) = (base.data[0].address, base.copies[0].device);
    let owed = |n| Owed { device: Uid::from_bytes([n; 32]), address };
    let all = || {
        let mut out = Vec::new();
        book.each_owed(|owed, until| out.push((owed, until))).unwrap();
        out
    };
    book.change(|c| {
        c.owe(&owed(3), UnixSeconds(7))?;
        c.owe(&owed(4), UnixSeconds(8))?;
        c.owe(&owed(5), UnixSeconds(9))
    })
    .unwrap();
    assert_eq!(owed(3).device, device);
    book.change(|c| c.put_group(&base)).unwrap();
    assert_eq!(all(), [(owed(4), UnixSeconds(8)), (owed(5), UnixSeconds(9))]);
    book.change(|c| c.owe_no_more(&owed(4))).unwrap();
    assert_eq!(all(), [(owed(5), UnixSeconds(9))]);
}

#[test]
fn what_was_given_up_is_not_remembered_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::open(&dir.path().join("book")).unwrap();
    let base = group(1);
    let id = base.id().unwrap();
    let device = |n: usize| Uid::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    book.change(|c| {
        c.put_group(&base)?;
        for n in 0..LEFT_MAX + 50 {
            c.update_group(&id, |g| {
                g.copies = vec![CopyRecord { shard: 0, device: device(n), failed: false }]
            })?;
        }
        Ok(())
    })
    .unwrap();
    let record = book.exchanged(&id).unwrap().unwrap();
    assert_eq!(record.0.len(), LEFT_MAX);
    assert!(wire::encode(&record).len() < ioex_net::questions::REPLY_MAX_BYTES / 2);
}

/// Two machines with the same words have a partner in common; one of them renewed what both know.
#[test]
fn a_machine_with_an_older_date_does_not_take_a_renewal_back() {
    let dir = tempfile::tempdir().unwrap();
    let book = |name: &str| Book::open(&dir.path().join(name)).unwrap();
    let (one, two, partner) = (book("one"), book("two"), book("partner"));
    let base = group(1);
    let id = base.id().unwrap();
    for book in [&one, &two, &partner] {
        book.change(|c| c.put_group(&base)).unwrap();
    }
    let give = |from: &Book, to: &Book, say| give(from, to, &id, say);
    let date = |book: &Book| book.group(&id).unwrap().unwrap().expires;
    one.change(|c| c.update_group(&id, |g| g.expires = UnixSeconds(5_000))).unwrap();
    give(&one, &partner, Say::Owner);
    give(&two, &partner, Say::Owner);
    assert_eq!(date(&partner), UnixSeconds(5_000));
    give(&partner, &two, Say::Adopt);
    assert_eq!(date(&two), UnixSeconds(5_000), "the other machine learns of it");
    partner.change(|c| c.update_group(&id, |g| g.expires = UnixSeconds(9_000))).unwrap();
    give(&partner, &one, Say::Copies);
    assert_eq!(date(&one), UnixSeconds(5_000), "who watches says nothing of dates");
    partner.change(|c| c.update_group(&id, |g| g.expires = UnixSeconds(5_000))).unwrap();
    // What is being given back is not kept because a partner has not heard of it.
    one.change(|c| c.update_group(&id, |g| g.expires = UnixSeconds(0))).unwrap();
    give(&partner, &one, Say::Adopt);
    assert_eq!(date(&one), UnixSeconds(0));
    give(&one, &partner, Say::Owner);
    assert_eq!(date(&partner), UnixSeconds(0));
}

#[test]
fn a_hostile_partner_cannot_make_the_book_unusable() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::open(&dir.path().join("book")).unwrap();
    let device = |n: usize| Uid::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let tell = |left: Vec<(u16, Uid)>, group: &GroupRecord, say| {
        book.merge(&[(left, group.clone())], word(say)).unwrap();
    };
    let good = group(1);
    let shard = good.data[0];
    let too_late = NOW.plus(SHARD_LIFE_SECONDS + 4 * ioex_base::DAY_SECONDS);
    for bad in [
        GroupRecord { reader: Uid::from_bytes([8; 32]), ..good.clone() },
        GroupRecord { expires: too_late, ..good.clone() },
        GroupRecord { parity: vec![shard; 96], ..good.clone() },
        GroupRecord { parity: vec![ShardRef { bytes: u32::MAX, ..shard }], ..good.clone() },
        GroupRecord { parity: vec![ShardRef { bytes: 0, ..shard }], ..good.clone() },
        GroupRecord { copies: vec![good.copies[0]; LEFT_MAX + 1], ..good.clone() },
    ] {
        for say in [Say::Owner, Say::Adopt] {
            tell(Vec::new(), &bad, say);
            assert!(book.group(&good.id().unwrap()).unwrap().is_none(), "{bad:?}");
        }
    }
    tell(vec![(0, device(0)); LEFT_MAX + 1], &good, Say::Owner);
    assert!(book.group(&good.id().unwrap()).unwrap().is_none());
    tell(Vec::new(), &good, Say::Owner);
    // Ever new copies.
    let id = good.id().unwrap();
    for say in [Say::Copies, Say::Owner] {
        for part in 0..4usize {
            let copy = |n| CopyRecord { shard: 0, device: device(part * 400 + n), failed: false };
            let more = GroupRecord { copies: (0..400).map(copy).collect(), ..good.clone() };
            tell(Vec::new(), &more, say);
        }
        let copies = book.exchanged(&id).unwrap().unwrap().1.copies.len();
        let told = book.hearsay().unwrap().len();
        let want = if say == Say::Owner { (LEFT_MAX, 0) } else { (1, LEFT_MAX - 1) };
        assert_eq!((copies, told), want);
        book.change(|c| c.remove_group(&id)).unwrap();
        assert!(book.hearsay().unwrap().is_empty());
        tell(Vec::new(), &good, Say::Owner);
    }
    let all = (0..LEFT_MAX).map(|n| CopyRecord { shard: 0, device: device(n), failed: false }).collect();
    book.change(|c| c.put_group(&GroupRecord { copies: all, ..good.clone() })).unwrap();
    let record = book.exchanged(&id).unwrap().unwrap();
    assert!(wire::encode(&record).len() < ioex_net::questions::REPLY_MAX_BYTES / 2);
}

#[test]
fn what_is_heard_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::open(&dir.path().join("book")).unwrap();
    let named = |n: usize| {
        let address = ContentAddress::of(&n.to_le_bytes());
        GroupRecord {
            data: vec![ShardRef { address, bytes: 1 }],
            parity: Vec::new(),
            copies: Vec::new(),
            ..group(1)
        }
    };
    let groups = HEARSAY_MAX as usize / LEFT_MAX + 2;
    book.change(|c| (0..groups).try_for_each(|n| c.put_group(&named(n)))).unwrap();
    let uid = |n: usize| Uid::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
    let copies: Vec<_> =
        (0..LEFT_MAX).map(|n| CopyRecord { shard: 0, device: uid(n), failed: false }).collect();
    let told = |n| (Vec::new(), GroupRecord { copies: copies.clone(), ..named(n) });
    let records: Vec<Exchanged> = (0..groups).map(told).collect();
    book.merge(&records, word(Say::Copies)).unwrap();
    assert_eq!(book.hearsay().unwrap().len() as u64, HEARSAY_MAX);
}

/// It says that everything was given up.
#[test]
fn a_partner_cannot_empty_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let book = |name: &str| Book::open(&dir.path().join(name)).unwrap();
    let (owner, partner, watcher) = (book("a"), book("b"), book("c"));
    let base = GroupRecord { copies: vec![copy(0, 3), copy(1, 4), copy(2, 5)], ..group(1) };
    let id = base.id().unwrap();
    for book in [&owner, &partner, &watcher] {
        book.change(|c| c.put_group(&base)).unwrap();
    }
    partner.change(|c| c.update_group(&id, |g| g.copies.clear())).unwrap();
    for (book, say) in [(&owner, Say::Adopt), (&watcher, Say::Copies)] {
        give(&partner, book, &id, say);
        assert_eq!(book.group(&id).unwrap().unwrap(), base, "{say:?}");
        let all = [3, 4, 5].map(|n| (u16::from(n) - 3, device(n), Hearsay::GivenUp));
        assert_eq!(heard(book), all, "{say:?}: this node asks");
        // What each one keeps for itself is no reason to compare again and again.
        assert_eq!(book.buckets().unwrap(), partner.buckets().unwrap());
        assert!(book.exchanged(&id).unwrap().unwrap().1.copies.is_empty());
        let before = book.generation();
        give(&partner, book, &id, say);
        assert_eq!(book.generation(), before, "nothing new was said");
    }
    let answers = |h: &Heard| match h.shard {
        0 => Finding::Holds,
        1 => Finding::Lacks,
        _ => Finding::Silent,
    };
    find(&owner, answers);
    let failed = CopyRecord { failed: true, ..copy(1, 4) };
    assert_eq!(owner.group(&id).unwrap().unwrap().copies, [copy(0, 3), failed, copy(2, 5)]);
    assert_eq!(owner.exchanged(&id).unwrap().unwrap().1.copies, [copy(0, 3)]);
    // What this node found missing itself may go.
    give(&partner, &owner, &id, Say::Adopt);
    assert_eq!(owner.group(&id).unwrap().unwrap().copies, [copy(0, 3), copy(2, 5)]);
    assert_eq!(heard(&owner).len(), 2);
    // The owner's word stands by itself.
    owner.change(|c| c.update_group(&id, |g| g.copies = vec![copy(0, 3)])).unwrap();
    assert_eq!(heard(&owner), [(0, device(3), Hearsay::GivenUp)]);
    give(&owner, &watcher, &id, Say::Owner);
    assert_eq!(watcher.group(&id).unwrap().unwrap().copies, [copy(0, 3)]);
}

#[test]
fn a_copy_that_only_a_partner_knows_counts_when_it_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let book = |name: &str| Book::open(&dir.path().join(name)).unwrap();
    let (owner, partner) = (book("a"), book("b"));
    let base = group(1);
    let id = base.id().unwrap();
    for book in [&owner, &partner] {
        book.change(|c| c.put_group(&base)).unwrap();
    }
    partner.change(|c| c.update_group(&id, |g| g.copies.extend([copy(1, 7), copy(2, 8)]))).unwrap();
    for finding in [Finding::Lacks, Finding::Silent] {
        give(&partner, &owner, &id, Say::Adopt);
        let before = owner.generation();
        give(&partner, &owner, &id, Say::Adopt);
        assert_eq!(owner.generation(), before, "nothing new was said");
        assert_eq!(heard(&owner), [(1, device(7), Hearsay::Told), (2, device(8), Hearsay::Told)]);
        find(&owner, |_| finding);
        assert_eq!(owner.group(&id).unwrap().unwrap(), base);
        assert!(heard(&owner).is_empty() && owner.exchanged(&id).unwrap().unwrap().0.is_empty());
    }
    give(&partner, &owner, &id, Say::Adopt);
    // Taken back before it was asked about; and brought there by this node.
    partner.change(|c| c.update_group(&id, |g| g.copies.retain(|c| *c != copy(1, 7)))).unwrap();
    give(&partner, &owner, &id, Say::Adopt);
    assert_eq!(heard(&owner), [(2, device(8), Hearsay::Told)]);
    owner.change(|c| c.update_group(&id, |g| g.copies.push(copy(2, 8)))).unwrap();
    assert!(heard(&owner).is_empty());
    partner.change(|c| c.update_group(&id, |g| g.copies.push(copy(1, 9)))).unwrap();
    give(&partner, &owner, &id, Say::Adopt);
    find(&owner, |_| Finding::Holds);
    assert_eq!(owner.group(&id).unwrap().unwrap().copies, [base.copies[0], copy(2, 8), copy(1, 9)]);
    assert!(heard(&owner).is_empty() && owner.buckets().unwrap() == partner.buckets().unwrap());
}

#[test]
fn an_heir_asks_about_what_it_learnt_and_remembers_that_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let book = |name: &str| Book::open(&dir.path().join(name)).unwrap();
    let (heir, partner) = (book("a"), book("b"));
    let failed = CopyRecord { failed: true, ..copy(1, 4) };
    let base = GroupRecord { copies: vec![copy(0, 3), failed], ..group(1) };
    let (id, own) = (base.id().unwrap(), group(40));
    partner.change(|c| c.put_group(&base)).unwrap();
    heir.change(|c| c.put_group(&own)).unwrap();
    give(&partner, &heir, &id, Say::Adopt);
    assert_eq!(
        heir.group(&id).unwrap().unwrap().copies,
        [copy(0, 3), copy(1, 4)],
        "nobody else says that it failed"
    );
    assert_eq!(heard(&heir), [(0, device(3), Hearsay::Adopted), (1, device(4), Hearsay::Adopted)]);
    assert_eq!(heir.exchanged(&id).unwrap().unwrap().1.copies.len(), 2);
    find(&heir, |h| if h.shard == 0 { Finding::Holds } else { Finding::Lacks });
    assert_eq!(heir.group(&id).unwrap().unwrap().copies, base.copies);
    // Another machine may be storing it: it is known that this one did not.
    let adopted = |since| heir.adopted(since).unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!((adopted(NOW), adopted(NOW.plus(1))), (vec![id], Vec::new()));
    heir.change(|c| c.forget_removed(NOW.plus(1))).unwrap();
    assert!(adopted(NOW).is_empty());
    heir.change(|c| c.remove_group(&id)).unwrap();
    heir.change(|c| c.forget_removed(files::now().plus(1))).unwrap();
    give(&partner, &heir, &id, Say::Adopt);
    heir.change(|c| c.remove_group(&id)).unwrap();
    assert!(adopted(NOW).is_empty() && heard(&heir).is_empty());
}

#[tokio::test]
async fn work_with_the_book_leaves_the_thread_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let book = std::sync::Arc::new(Book::open(&dir.path().join("book")).unwrap());
    let (go, wait) = std::sync::mpsc::channel();
    let work = book.off(move |_| Ok(wait.recv_timeout(std::time::Duration::from_secs(10)).is_ok()));
    // Both on the only thread of this test: when the first one holds it, the other never comes to its turn.
    let (waited, sent) = tokio::join!(work, async move { go.send(()) });
    assert!(waited.unwrap() && sent.is_ok());
}
