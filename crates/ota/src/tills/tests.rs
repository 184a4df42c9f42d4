//! What a voucher opens, and what closes it.

use ioex_base::NodeKey;

use super::*;
use crate::receipts::{FORGOTTEN_MAX_BYTES, Tab, UNRECEIPTED_MAX_BYTES};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const DOMAIN: Domain = Domain { chain: 1, contract: Address([1; 20]) };
const SHARD: u32 = 512 * 1024;
const SHARDS: u32 = 200;

fn node(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

fn account(n: u8) -> ReceiptKey {
    ReceiptKey::of(&node(n))
}

fn voucher(serial: u64) -> Voucher {
    Voucher {
        order: OrderId([4; 16]),
        serial,
        requester: node(1).uid(),
        provider: node(2).uid(),
        manifest: ContentAddress::of(b"manifest"),
        first_shard: 0,
        shards: SHARDS,
        expires: NOW.plus(3_600),
    }
}

fn matcher() -> Uid {
    node(9).uid()
}

fn guest() -> Guest {
    (node(1).uid(), voucher(0).manifest)
}

/// The requester comes with a voucher.
fn come(tills: &mut Tills, serial: u64) -> Result<Vec<Event>, VoucherError> {
    let events = tills.open(&matcher(), &voucher(serial), NOW)?;
    tills.count(&voucher(serial), DOMAIN, account(1).address(), None);
    Ok(events)
}

/// So many shards go out; false when one is withheld.
fn send(tills: &mut Tills, tab: &mut Tab, shards: Range<u32>) -> bool {
    shards.into_iter().all(|shard| {
        let Ok(Allowed { voucher: Some(name), .. }) = tills.allows(&guest()) else { return false };
        tills.sent(&guest(), &name, SHARD);
        tab.verified(shard, SHARD);
        true
    })
}

fn sign(tills: &mut Tills, tab: &Tab) -> Result<(SignedReceipt, Option<Event>), SettleError> {
    tills.settle(&guest(), tab.receipt(&DOMAIN, &account(1), NOW), &account(2))
}

/// A book as it is after a restart.
fn restarted(events: &[Event]) -> Tills {
    let mut tills = Tills::default();
    events.iter().for_each(|event| tills.replay(event.clone(), NOW));
    tills
}

#[test]
fn who_comes_again_under_the_same_voucher_goes_on_and_gets_no_more() {
    let mut tills = Tills::default();
    let mut tab = Tab::new(voucher(1), SHARDS as usize);
    assert_eq!(come(&mut tills, 1).unwrap().len(), 1);
    let shards = (UNRECEIPTED_MAX_BYTES / u64::from(SHARD)) as u32;
    assert!(send(&mut tills, &mut tab, 0..shards));
    for _ in 0..3 {
        tills.away(&guest());
        assert_eq!(come(&mut tills, 1), Ok(Vec::new()), "nothing new is kept");
        assert_eq!(tills.allows(&guest()), Err(Withheld::Owes), "a connection is no new allowance");
    }
    sign(&mut tills, &tab).unwrap();
    assert!(send(&mut tills, &mut tab, shards..shards + 1));
}

#[test]
fn a_voucher_whose_till_was_closed_opens_none() {
    let mut tills = Tills::default();
    come(&mut tills, 1).unwrap();
    // By a fresh one.
    assert_eq!(come(&mut tills, 2).unwrap().len(), 2);
    assert_eq!(come(&mut tills, 1), Err(VoucherError::Used));
    assert_eq!(tills.admits(&matcher(), &voucher(1)), Err(VoucherError::Used));
    assert_eq!(tills.admits(&node(8).uid(), &voucher(1)), Ok(()), "another matcher counts for itself");
    let other = Voucher { order: OrderId([5; 16]), ..voucher(1) };
    assert_eq!(tills.admits(&matcher(), &other), Ok(()), "and each order, too");
    // By a pass.
    assert!(tills.close(&guest()).is_some());
    assert_eq!(come(&mut tills, 2), Err(VoucherError::Used));
    assert_eq!(tills.allows(&guest()).unwrap().voucher, None, "a pass is not counted");
}

#[test]
fn a_voucher_for_which_all_is_receipted_is_used_up() {
    let mut tills = Tills::default();
    let mut tab = Tab::new(voucher(1), SHARDS as usize);
    come(&mut tills, 1).unwrap();
    for first in (0..SHARDS).step_by(20) {
        assert!(send(&mut tills, &mut tab, first..first + 20));
        let (signed, event) = sign(&mut tills, &tab).unwrap();
        assert!(signed.provider.is_some());
        assert_eq!(event.is_some(), first + 20 == SHARDS);
    }
    assert_eq!(tills.allows(&guest()), Err(Withheld::UsedUp));
    // The answer may have been lost.
    assert_eq!(sign(&mut tills, &tab).unwrap().1, None);
    assert_eq!(come(&mut tills, 1), Err(VoucherError::Used));
    tills.away(&guest());
    assert_eq!(come(&mut tills, 1), Err(VoucherError::Used));
    assert!(come(&mut tills, 2).is_ok());
}

/// What a receipt says for good cannot be taken back: it was, when another voucher was shown in between.
#[test]
fn a_guest_that_alternates_vouchers_takes_no_receipt_back_and_gets_no_more() {
    let mut tills = Tills::default();
    let mut tab = Tab::new(voucher(1), SHARDS as usize);
    come(&mut tills, 1).unwrap();
    assert!(send(&mut tills, &mut tab, 0..20));
    sign(&mut tills, &tab).unwrap();
    come(&mut tills, 2).unwrap();
    assert_eq!(come(&mut tills, 1), Err(VoucherError::Used));
    let less = Tab::new(voucher(1), SHARDS as usize);
    let refused = sign(&mut tills, &less);
    assert_eq!(refused.unwrap_err(), SettleError::Receipt(ReceiptError::Subject));
    let mut sent = 0_u64;
    for round in 0..40 {
        let serial = 1 + round % 2;
        if come(&mut tills, serial).is_ok() {
            while let Ok(Allowed { voucher: Some(name), .. }) = tills.allows(&guest()) {
                tills.sent(&guest(), &name, SHARD);
                sent += u64::from(SHARD);
            }
        }
    }
    assert_eq!(sent, UNRECEIPTED_MAX_BYTES);
}

#[test]
fn a_restart_of_the_provider_closes_nothing_and_opens_nothing() {
    let mut tills = Tills::default();
    let mut events = come(&mut tills, 1).unwrap();
    events.extend(come(&mut tills, 2).unwrap());
    let mut tab = Tab::new(voucher(2), SHARDS as usize);
    assert!(send(&mut tills, &mut tab, 0..10));
    let (before, _) = sign(&mut tills, &tab).unwrap();
    assert!(send(&mut tills, &mut tab, 10..30));
    let kept: Vec<Event> = tills.events().collect();
    for events in [events, kept] {
        let mut tills = restarted(&events);
        let mut tab = tab.clone();
        assert_eq!(come(&mut tills, 1), Err(VoucherError::Used));
        assert_eq!(tills.open(&matcher(), &voucher(2), NOW), Ok(Vec::new()));
        tills.count(&voucher(2), DOMAIN, account(1).address(), Some(before.clone()));
        // The requester's sum goes on, although the provider forgot a part of it.
        sign(&mut tills, &tab).unwrap();
        assert!(send(&mut tills, &mut tab, 30..50));
        let (signed, _) = sign(&mut tills, &tab).unwrap();
        assert_eq!(signed.receipt.total, 50 * u64::from(SHARD));
        // A smaller one than it kept is not taken.
        let less = Tab::new(voucher(2), SHARDS as usize);
        assert!(sign(&mut tills, &less).is_err());
    }
}

#[test]
fn what_was_forgotten_is_bounded() {
    let opened = Event::Opened { issuer: matcher(), voucher: voucher(1) };
    let mut tills = restarted(&[opened]);
    come(&mut tills, 1).unwrap();
    let mut tab = Tab::new(voucher(1), SHARDS as usize);
    let most = (FORGOTTEN_MAX_BYTES / u64::from(SHARD)) as u32;
    (0..=most).for_each(|shard| tab.verified(shard, SHARD));
    assert!(matches!(sign(&mut tills, &tab), Err(SettleError::Receipt(ReceiptError::More { .. }))));
    let mut tab = Tab::new(voucher(1), SHARDS as usize);
    (0..most).for_each(|shard| tab.verified(shard, SHARD));
    sign(&mut tills, &tab).unwrap();
    // Once.
    tab.verified(most, SHARD);
    assert!(sign(&mut tills, &tab).is_err());
}

#[test]
fn a_voucher_covers_its_shards() {
    let mut tills = Tills::default();
    let part = Voucher { first_shard: 10, shards: 5, ..voucher(1) };
    tills.open(&matcher(), &part, NOW).unwrap();
    assert_eq!(tills.allows(&guest()).unwrap().shards, 10..15);
    let part = Voucher { first_shard: u32::MAX, shards: 5, ..voucher(2) };
    tills.open(&matcher(), &part, NOW).unwrap();
    assert!(tills.allows(&guest()).unwrap().shards.is_empty());
}

#[test]
fn what_a_provider_remembers_is_bounded_and_ends() {
    let mut tills = Tills::default();
    for serial in 0..CLOSED_MAX as u64 {
        tills.open(&matcher(), &voucher(serial), NOW).unwrap();
        tills.close(&guest());
    }
    assert_eq!(come(&mut tills, u64::MAX), Err(VoucherError::Busy));
    let later = NOW.plus(5_000);
    let fresh = Voucher { expires: later.plus(60), ..voucher(u64::MAX) };
    assert!(tills.open(&matcher(), &fresh, later).is_ok());
    assert_eq!(tills.len(), 1);

    // Who is away makes room for who comes; who is here does not.
    let mut tills = Tills::default();
    let of = |n: usize| {
        let mut uid = [0; 32];
        uid[..8].copy_from_slice(&n.to_le_bytes());
        Voucher { requester: Uid::from_bytes(uid), ..voucher(n as u64) }
    };
    for n in 0..OPEN_MAX {
        tills.open(&matcher(), &of(n), NOW).unwrap();
    }
    assert_eq!(tills.open(&matcher(), &of(OPEN_MAX), NOW), Err(VoucherError::Busy));
    tills.away(&(of(7).requester, of(7).manifest));
    let events = tills.open(&matcher(), &of(OPEN_MAX), NOW).unwrap();
    assert!(matches!(events[0], Event::Closed { name, .. } if name.serial == 7), "{events:?}");
    assert_eq!(tills.open(&matcher(), &of(7), NOW), Err(VoucherError::Used));
}

#[test]
fn events_are_lines_of_text() {
    let name = VoucherName { issuer: matcher(), order: OrderId([4; 16]), serial: 1 };
    for event in
        [Event::Opened { issuer: matcher(), voucher: voucher(1) }, Event::Closed { name, expires: NOW }]
    {
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
