//! The lent space as the mesh sees it.

use ioex_base::{GrantId, NodeKey, SealedHead, SignedGrant, head_address};
use ioex_net::{
    Host,
    host::PlaceStart,
    proto::{HeadAnswer, HeadStart, Place, PutHead, Renew},
};
use ioex_vault::proof::{Proof, leaves, verify};

use super::*;

const SPACE: u64 = 20_000_000;

fn lent(dir: &tempfile::TempDir) -> Lent {
    let store = ShardStore::open(dir.path(), SPACE).unwrap();
    Lent::new(Some(store), Vec::new(), Revoked::default())
}

fn uid(n: u8) -> Uid {
    Uid::from_bytes([n; 32])
}

fn no_grant() -> SignedGrant {
    SignedGrant { issuer: uid(0), bytes: Vec::new() }
}

fn in_days(days: u64) -> UnixSeconds {
    files::now().plus(days * ioex_base::DAY_SECONDS)
}

fn content(n: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i / 251) as u8) ^ n).collect()
}

fn put(lent: &Lent, placer: u8, bytes: &[u8]) -> ContentAddress {
    let address = ContentAddress::of(bytes);
    let place =
        Place { grant: no_grant(), address, bytes: bytes.len() as u64, reader: uid(9), expires: in_days(30) };
    match lent.begin_place(&uid(placer), &place).unwrap() {
        PlaceStart::Write(mut sink) => {
            sink.write(bytes).unwrap();
            sink.commit().unwrap();
        }
        PlaceStart::AlreadyHeld => {}
    }
    address
}

#[test]
fn every_leaf_of_a_held_shard_is_proved_and_damage_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let lent = lent(&dir);
    let bytes = content(1, 70_001);
    let (address, len) = (put(&lent, 1, &bytes), bytes.len() as u64);
    for leaf in 0..leaves(len) {
        let proof = Proof::decode(&Host::prove(&lent, &address, leaf).unwrap()).unwrap();
        assert!(verify(&address, len, leaf, &proof), "leaf {leaf}");
    }
    assert_eq!(Host::prove(&lent, &address, leaves(len)), None);
    assert_eq!(Host::prove(&lent, &ContentAddress::of(b"not here"), 0), None);
    assert!(Host::prove(&lent, &put(&lent, 1, &content(2, 4 << 20)), 4_095).unwrap().len() <= 2_048);

    // One bit that rotted far from the leaf: the device notices and no longer claims to hold it.
    let text = address.to_string();
    let path = dir.path().join(&text[..2]).join(&text);
    let mut rotten = bytes;
    rotten[60_000] ^= 4;
    std::fs::write(&path, &rotten).unwrap();
    assert_eq!(Host::prove(&lent, &address, 0), None);
    assert!(!lent.held().contains(&address));
}

#[test]
fn heads_and_leases_go_through_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let lent = lent(&dir);
    let repository = NodeKey::from_seed([3; 32]);
    let head = |seq| SealedHead::sign(&repository, seq, b"body");
    let asked = |seq| PutHead {
        grant: no_grant(),
        repo: repository.uid(),
        seq,
        bytes: head(seq).len() as u64,
        reader: uid(9),
        expires: in_days(30),
    };
    let address = head_address(&repository.uid());
    assert_eq!(lent.begin_head(&uid(1), &asked(5)), Ok(HeadStart::Send));
    assert_eq!(lent.put_head(&uid(1), &asked(5), &head(5)), Ok(HeadAnswer::Kept));
    assert!(lent.held().contains(&address) && lent.is_reader(&address, &uid(9)));
    assert_eq!(lent.open_shard(&address).unwrap().unwrap().1, head(5).len() as u64);
    assert_eq!(Host::prove(&lent, &address, 0), None);
    // Bytes that are not what was announced.
    assert_eq!(lent.put_head(&uid(1), &asked(6), &head(7)), Err(No::Mismatch));
    assert_eq!(lent.put_head(&uid(1), &asked(6), b"junk"), Err(No::Mismatch));
    // The same number again brings a lease and moves nothing.
    let again = PutHead { reader: uid(8), ..asked(5) };
    assert_eq!(lent.begin_head(&uid(2), &again), Ok(HeadStart::Newer(5)));
    assert!(lent.is_reader(&address, &uid(8)));
    let past = PutHead { expires: UnixSeconds(5), ..asked(5) };
    assert_eq!(lent.begin_head(&uid(2), &past), Err(No::BadRequest));

    let shard = put(&lent, 1, b"a shard");
    let renew = Renew {
        grant: no_grant(),
        reader: uid(9),
        expires: in_days(80),
        addresses: vec![shard, ContentAddress::of(b"none"), address],
    };
    assert_eq!(lent.renew(&uid(1), &renew, u64::MAX), Ok(vec![true, false, true]));
    let ends = |a| lent.list().into_iter().find(|(held, _)| held.address == a).unwrap().0.expires;
    assert!(ends(shard) > in_days(79) && ends(address) > in_days(79));
    assert_eq!(lent.release(&uid(7), &[shard, address]), Ok(0));
    assert_eq!(lent.release(&uid(1), &[shard, address]), Ok(2));
    assert!(!lent.held().contains(&shard) && lent.held().contains(&address));
}

#[test]
fn leases_run_by_the_networks_time_where_it_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let lent = lent(&dir);
    // The network is two years ahead of this device's clock.
    let ahead = in_days(730);
    lent.note_network_time(Some(ahead));
    let place = |days: u64| {
        let (bytes, expires) = (content(days as u8, 50), ahead.plus(days * ioex_base::DAY_SECONDS));
        let address = ContentAddress::of(&bytes);
        let place = Place { grant: no_grant(), address, bytes: 50, reader: uid(9), expires };
        lent.begin_place(&uid(1), &place).map(|start| match start {
            PlaceStart::Write(mut sink) => {
                sink.write(&bytes).unwrap();
                sink.commit().unwrap();
            }
            PlaceStart::AlreadyHeld => panic!("held"),
        })
    };
    assert_eq!(place(60), Ok(()));
    assert_eq!(lent.list()[0].0.expires, ahead.plus(60 * ioex_base::DAY_SECONDS));
    // Nothing is deleted while the clocks disagree, and the owner hears of it.
    assert!(lent.remove_expired().apart.is_some_and(|apart| apart >= 729 * ioex_base::DAY_SECONDS));
    lent.note_network_time(None);
    assert_eq!(lent.remove_expired(), Expired::default());
    assert_eq!(lent.list().len(), 1);
}

#[test]
fn a_revoked_grant_is_known_by_its_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = (NodeKey::from_seed([1; 32]), dir.path().join("revoked"));
    crate::authority::revoke(&key, GrantId([4; 16]), &file).unwrap();
    let lent = Lent::new(None, vec![key.uid()], Revoked::open(vec![file]).unwrap());
    assert!(lent.is_revoked(&key.uid(), &GrantId([4; 16])));
    assert!(!lent.is_revoked(&key.uid(), &GrantId([5; 16])));
}
