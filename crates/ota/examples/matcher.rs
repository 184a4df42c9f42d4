//! How many devices one core matches in a second: `cargo run --release -p ioex-ota --example matcher`.

use std::{collections::HashSet, time::Instant};

use ioex_base::{ContentAddress, NodeKey, Uid, UnixSeconds};
use ioex_ota::{
    Version,
    matcher::{End, Matcher, Order, PROVIDERS_PER_MATCH, roster_hash},
    voucher::OrderId,
};

const DEVICES: u32 = 200_000;
const MATCHES: u32 = 50_000;
const OPEN: usize = 4_000;

fn uid(n: u32) -> Uid {
    Uid::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn main() {
    let key = NodeKey::from_seed([1; 32]);
    let roster: HashSet<Uid> = (0..DEVICES).map(uid).collect();
    let now = UnixSeconds(1_800_000_000);
    let order = Order {
        id: OrderId([0; 16]),
        matcher: key.uid(),
        version: Version([2, 0, 0, 0]),
        manifest: ContentAddress::of(b"manifest"),
        shards: 25,
        quantity: DEVICES,
        roster: roster_hash(&roster),
        expires: now.plus(86_400),
    };
    let mut matcher = Matcher::new(key, order, &roster, 1).expect("the order is its roster's");
    for n in MATCHES..MATCHES + 1_000 {
        matcher.add_provider(uid(n));
    }
    matcher.add_origin(uid(MATCHES + 1_000));
    let devices: Vec<Uid> = (0..MATCHES).map(uid).collect();
    let start = Instant::now();
    let mut bytes = 0;
    for (n, device) in devices.iter().enumerate() {
        let given = matcher.matched(device, n as u64, now).expect("on the roster");
        bytes += given.pass.len() + given.providers.iter().map(|(_, voucher)| voucher.len()).sum::<usize>();
        // Thousands of matches are open at any moment.
        if n >= OPEN {
            matcher.report(&devices[n - OPEN], End::Done);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{:.0} matches per second on one core, {PROVIDERS_PER_MATCH} vouchers and a pass each, {} bytes per match",
        f64::from(MATCHES) / seconds,
        bytes / devices.len(),
    );
}
