use proptest::prelude::*;

use super::*;
use crate::{OwnerKey, repo::RecoveryKey, repo::object};

fn point(n: u8, created: u64, expires: u64) -> PointRef {
    let secrets = OwnerKey::from_bytes([3; 32]).secrets();
    let (root, _) = object::seal(&secrets, &[n]).unwrap();
    PointRef {
        created: UnixSeconds(created),
        expires: UnixSeconds(expires),
        label: format!("host{n} /home"),
        origin: Some(Origin::new(&format!("host{n}"), &[b"/home".to_vec()])),
        tags: vec![TagId::of("t")],
        totals: Totals::default(),
        root,
        rewritten: None,
    }
}

/// An object reference as it is stored.
fn stored_reference() -> Vec<u8> {
    [&[7; 32][..], &[0x80, 0x80, 1, 100, 84, 0], &[8; 32]].concat()
}

#[test]
fn golden_bytes() {
    let reference = stored_reference();
    let root: ObjectRef = wire::decode(&reference, 1_000).unwrap();
    let old = v1::Head {
        points: vec![v1::Point {
            created: UnixSeconds(1_000),
            expires: UnixSeconds(2_000),
            label: "h /a #t".into(),
            totals: Totals { files: 1, ..Totals::default() },
            root: root.clone(),
        }],
    };
    let dates = [0xe8, 7, 0xd0, 15];
    let (label, totals) = ([&[7][..], b"h /a #t"].concat(), [1, 0, 0, 0, 0, 0, 0]);
    let want = [&[1][..], &dates, &label, &totals, &reference].concat();
    assert_eq!(wire::encode(&old), want, "version 1");
    let mut head = Head::from(old);
    assert_eq!(head.points[0].source(), Source::Label("h /a".into()));
    assert!(head.points[0].has_tag("t") && !head.points[0].has_tag("a"));

    head.points[0].origin = Some(Origin { host: [1; 8], paths: [2; 8] });
    head.points[0].tags = vec![TagId([3; 8])];
    head.points[0].rewritten = Some(Rewritten { id: PointId([4; 8]), times: 5 });
    head.forgotten = vec![Forgotten { id: PointId([6; 8]), until: UnixSeconds(9) }];
    let origin = [&[1][..], &[1; 8], &[2; 8]].concat();
    let tags = [&[1][..], &[3; 8]].concat();
    let rewritten = [&[1][..], &[4; 8], &[5]].concat();
    let point = [&dates[..], &label, &origin, &tags, &totals, &reference, &rewritten].concat();
    let want = [&[1][..], &point, &[1], &[6; 8], &[9]].concat();
    assert_eq!(wire::encode(&head), want, "version 2");
    assert_eq!(wire::decode::<Head>(&want, 1_000).unwrap(), head);
}

#[test]
fn golden_hashes_of_origins_and_tags() {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let origin = Origin::new("host", &[b"/b".to_vec(), b"/a".to_vec()]);
    let got = [hex(&origin.host), hex(&origin.paths), hex(&TagId::of("monday").0)];
    assert_eq!(got, ["a85a8e362d7b272c", "8bd3ed7ae9c95679", "a306deafc826274e"]);
}

#[test]
fn origins_tell_machines_and_paths_apart() {
    let path = |p: &str| p.as_bytes().to_vec();
    let one = Origin::new("h", &[path("/a"), path("/b")]);
    assert_eq!(one, Origin::new("h", &[path("/b"), path("/a"), path("/b")]), "in any order, once");
    assert_ne!(one, Origin::new("h", &[path("/a/b")]));
    assert_ne!(one, Origin::new("h", &[path("/a")]));
    assert_ne!(one, Origin::new("i", &[path("/a"), path("/b")]));
    assert!(one.is_of_host("h") && !one.is_of_host("i"));
    assert!(one.has_paths(&[path("/b"), path("/a")]) && !one.has_paths(&[path("/b")]));
    let tagged = point(1, 1, 2);
    assert!(tagged.has_tag("t") && !tagged.has_tag("tt"));
}

#[test]
fn the_version_before_is_read_and_described_by_its_root() {
    let keys = RecoveryKey::from_bytes([7; 32]).keys();
    let now = point(1, 10, 100);
    let old = v1::Head {
        points: vec![v1::Point {
            created: now.created,
            expires: now.expires,
            label: now.label.clone(),
            totals: now.totals,
            root: now.root.clone(),
        }],
    };
    // As the program before sealed it.
    let mut text = zstd::bulk::compress(&wire::encode(&old), ZSTD_LEVEL).unwrap();
    let siv = super::keys(&keys, &text);
    let key = *blake3::keyed_hash(&keys.head, &siv).as_bytes();
    aead::seal(&key, b"", &mut text, 0).unwrap();
    let body = [&[v1::VERSION][..], &siv, &text].concat();
    assert!(!Head::remembers(&body));
    let mut head = Head::open(&body, &keys).unwrap();
    assert_eq!((head.points.len(), head.points[0].origin), (1, None));
    let mut root = crate::repo::point::tests::sample();
    (root.host, root.paths) = ("host1".into(), vec![b"/home".to_vec()]);
    head.points[0].describe(&root);
    assert_eq!(head.points[0], now);
    let again = head.seal(&keys).unwrap();
    assert!(Head::remembers(&again));
    assert_eq!(Head::open(&again, &keys).unwrap(), head);
}

#[test]
fn only_the_recovery_key_reads_it() {
    let keys = RecoveryKey::from_bytes([7; 32]).keys();
    let mut head = Head::default();
    head.add(point(2, 20, 200)).unwrap();
    head.add(point(1, 10, 100)).unwrap();
    let body = head.seal(&keys).unwrap();
    assert_eq!(Head::open(&body, &keys).unwrap(), head);
    assert_eq!(head.points[0].created, UnixSeconds(10), "oldest first");
    let other = RecoveryKey::from_bytes([8; 32]).keys();
    assert!(matches!(Head::open(&body, &other), Err(HeadError::Damaged)));
    for at in 1..body.len() {
        let mut bad = body.clone();
        bad[at] ^= 1;
        assert!(Head::open(&bad, &keys).is_err(), "byte {at}");
    }
    let mut newer = body;
    newer[0] = 9;
    assert!(matches!(Head::open(&newer, &keys), Err(HeadError::Version { got: 9 })));
}

#[test]
fn two_machines_lose_nothing_and_forget_together() {
    let (mut a, mut b) = (Head::default(), Head::default());
    a.add(point(1, 10, 100)).unwrap();
    a.add(point(2, 20, 100)).unwrap();
    a.add(point(4, 40, 100)).unwrap();
    b.add(point(2, 20, 300)).unwrap();
    b.add(point(3, 30, 100)).unwrap();
    b.add(point(4, 40, 100)).unwrap();
    // One dropped what the other still lists, and the other way round.
    a.forget(&[point(4, 40, 100).id()]);
    b.forget(&[point(1, 10, 100).id(), point(3, 30, 100).id()]);
    let (mut ab, mut ba) = (a.clone(), b.clone());
    ab.merge(&b);
    ba.merge(&a);
    for merged in [&ab, &ba] {
        let dates: Vec<_> = merged.points.iter().map(|p| (p.created.0, p.expires.0)).collect();
        // The first was never dropped where it is listed by `b`; the memory of `b` says nothing of it.
        assert_eq!(dates, [(10, 100), (20, 300)]);
    }
    assert_eq!(ab.expire(UnixSeconds(101)).len(), 1);
    assert_eq!((ab.points.len(), ab.forgotten.len()), (1, 0), "what ended need not be remembered");
}

#[test]
fn the_root_that_was_written_last_holds_on_every_machine() {
    let mut old = Head::default();
    old.add(point(1, 10, 100)).unwrap();
    let mut new = old.clone();
    let id = old.points[0].id();
    new.points[0].rewrite(point(9, 0, 0).root);
    new.points[0].rewrite(point(8, 0, 0).root);
    assert_eq!((new.points[0].id(), new.points[0].rewritten.map(|r| r.times)), (id, Some(2)));
    let mut merged = old.clone();
    merged.merge(&new);
    assert_eq!(merged, new);
    new.merge(&old);
    assert_eq!(merged, new);
}

#[test]
fn a_full_list_still_fits_a_head() {
    let keys = RecoveryKey::from_bytes([7; 32]).keys();
    let mut head = Head::default();
    let one = point(1, 10, 100);
    let noise = crate::testing::noise(POINTS_MAX * 80, 1);
    for n in 0..POINTS_MAX {
        let mut p = one.clone();
        let reference = [&noise[n * 80..][..32], &[0x80, 0x80, 1, 100, 84, 0], &noise[n * 80 + 32..][..32]];
        p.root = wire::decode(&reference.concat(), 1_000).unwrap();
        p.created = UnixSeconds(1_800_000_000 + n as u64 * 3_600);
        head.points.push(p);
        let id = PointId(noise[n * 80 + 64..][..8].try_into().unwrap());
        head.forgotten.push(Forgotten { id, until: UnixSeconds(1_800_000_000 + n as u64 * 3_601) });
    }
    assert!(matches!(head.add(point(9, 5, 5)), Err(HeadError::Full)));
    let sealed = head.seal(&keys).unwrap();
    assert_eq!(Head::open(&sealed, &keys).unwrap().points.len(), POINTS_MAX);
    head.forgotten.push(Forgotten { id: PointId([0; 8]), until: UnixSeconds(1) });
    head.forget(&[]);
    assert_eq!(head.forgotten.len(), FORGOTTEN_MAX);
    assert!(head.forgotten.iter().all(|f| f.until != UnixSeconds(1)), "the one that ends first goes");
}

proptest! {
    #[test]
    fn any_bytes_are_handled(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let keys = RecoveryKey::from_bytes([7; 32]).keys();
        let _ = Head::open(&tail, &keys);
        let _ = Head::open(&[vec![VERSION], tail.clone()].concat(), &keys);
        let _ = wire::decode::<Head>(&tail, HEAD_PLAIN_MAX_BYTES);
        let _ = wire::decode::<v1::Head>(&tail, HEAD_PLAIN_MAX_BYTES);
    }
}
