//! Vouchers and passes at a running provider: who shows one that nobody gave it, or one twice, gets nothing.

use ioex_base::{
    ContentAddress, DAY_SECONDS, NodeKey, Sealed as _, Uid, UnixSeconds,
    receipt::{Address, Domain, ReceiptKey},
};
use ioex_net::{
    proto::{Join, Provider, ShardAsk, ShardWant},
    transfer::FetchError,
    updates::Exchange,
};
use ioex_ota::{
    pass::Pass,
    receipts::Tab,
    swarm::Bits,
    voucher::{OrderId, VOUCHER_LIFE_SECONDS, Voucher},
};

use crate::{
    net::{noise, poll, uid_of},
    ota_attacks::Attack,
};

/// The peer is not on the release's list, so what it signs opens nothing at a device; nor does what it signs in a
/// matcher's name.
#[test]
fn a_voucher_that_nobody_gave() {
    let attack = Attack::start(113);
    attack.publish("1.1", &noise(300_000, 1));
    attack.wear(&attack.honest());
    attack.fleet.update_to("1.1.0");
    let device: Uid = uid_of(&attack.fleet.devices[0]).parse().unwrap();
    let matcher: Uid = uid_of(&attack.fleet.net.super_node).parse().unwrap();
    let manifest = attack.channel().releases().next().map(|(_, release)| release.manifest).unwrap();
    let thief = NodeKey::from_seed([67; 32]);
    // All of it is good, but for who signed it.
    let (requester, now) = (attack.mask.uid, ioex::render::now());
    let pass = Pass { manifest, requester, expires: now.plus(DAY_SECONDS) };
    let voucher = Voucher {
        order: OrderId([1; 16]),
        serial: 1,
        requester,
        provider: device,
        manifest,
        first_shard: 0,
        shards: 1,
        expires: now.plus(VOUCHER_LIFE_SECONDS),
    };
    let (pass, voucher) = (pass.seal(&thief), voucher.seal(&thief));
    for (issuer, credential) in
        [(thief.uid(), &pass), (thief.uid(), &voucher), (matcher, &pass), (matcher, &voucher)]
    {
        let (credential, have, certificate) = (credential.clone(), vec![0], Vec::new());
        let join = Join { manifest, issuer, credential, have, certificate };
        let joined = attack.runtime.block_on(attack.mesh.exchange_join(device, join));
        let why = joined.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains("no authority"), "{why:?} by {issuer}");
    }
}

/// A device of the maker's own that wants more than its share.
struct Greedy<'a> {
    attack: &'a Attack,
    provider: Uid,
    manifest: ContentAddress,
    shards: usize,
    key: NodeKey,
}

impl Greedy<'_> {
    /// A fresh voucher.
    fn voucher(&self) -> Vec<u8> {
        let matched = self.attack.mesh.update_match(self.provider, self.manifest);
        let matched = self.attack.runtime.block_on(matched).unwrap();
        let at = |provider: Provider| (provider.uid == self.provider).then_some(provider.voucher);
        matched.providers.into_iter().find_map(at).unwrap()
    }

    fn join(&self, voucher: &[u8]) -> Result<Exchange, FetchError> {
        let expires = UnixSeconds(ioex::render::now().0 + DAY_SECONDS);
        let join = Join {
            manifest: self.manifest,
            issuer: self.provider,
            credential: voucher.to_vec(),
            have: Bits::none(self.shards).to_bytes(),
            certificate: ReceiptKey::of(&self.key).certify(&self.key, expires),
        };
        self.attack.runtime.block_on(self.attack.mesh.exchange_join(self.provider, join))
    }

    fn refused(&self, voucher: &[u8]) {
        let why = self.join(voucher).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(why.contains("no authority"), "{why:?}");
    }

    /// All shards, and a receipt for them.
    fn take_all(&self, voucher: &[u8]) {
        let mesh = &self.attack.mesh;
        let mut tab = Tab::new(Voucher::unseal(voucher, &self.provider).unwrap(), self.shards);
        while !tab.shards().is_full() {
            let missing = Bits::all(self.shards).minus(tab.shards()).to_bytes();
            let ask = ShardAsk { manifest: self.manifest, want: ShardWant::Least(missing) };
            let got = mesh.exchange_shard(self.provider, ask, 1 << 20, |_| true, |_| ());
            let (head, _, _) = self.attack.runtime.block_on(got).unwrap();
            tab.verified(head.shard, head.bytes);
        }
        let domain = Domain { chain: 0, contract: Address([0; 20]) };
        let signed = tab.receipt(&domain, &ReceiptKey::of(&self.key), ioex::render::now());
        let both = mesh.exchange_receipt(self.provider, ioex_base::wire::encode(&signed));
        assert!(self.attack.runtime.block_on(both).is_ok());
    }
}

#[test]
fn a_voucher_used_twice() {
    let mut attack = Attack::start(114);
    attack.fleet.devices[0].kill();
    let uid = attack.mask.uid.to_string();
    attack.fleet.maker(&["ota", "roster", "add", &uid]);
    let published = attack.fleet.publish("1.1", &noise(3 << 20, 1), &[]);
    let provider = uid_of(&attack.fleet.net.super_node).parse().unwrap();
    let manifest = published["manifest"].as_str().unwrap().parse().unwrap();
    let shards = published["shards"].as_u64().unwrap() as usize;
    let key = || NodeKey::from_seed([114; 32]);

    let vouchers = {
        let greedy = Greedy { attack: &attack, provider, manifest, shards, key: key() };
        let first = greedy.voucher();
        // A connection that breaks costs nothing.
        drop(greedy.join(&first).unwrap());
        let exchange = greedy.join(&first).unwrap();
        greedy.take_all(&first);
        drop(exchange);
        greedy.refused(&first);
        // A fresh one closes the one before.
        let (second, third) = (greedy.voucher(), greedy.voucher());
        drop(greedy.join(&second).unwrap());
        drop(greedy.join(&third).unwrap());
        greedy.refused(&second);
        [first, second, third]
    };
    // The provider remembers it when it starts anew.
    attack.fleet.net.super_node.kill();
    attack.fleet.net.super_node.run();
    let greedy = Greedy { attack: &attack, provider, manifest, shards, key: key() };
    let joined = poll(|| match greedy.join(&vouchers[2]) {
        Ok(_) => Some(()),
        Err(e) => {
            assert!(!e.to_string().contains("no authority"), "{e}");
            None
        }
    });
    assert!(joined.is_some(), "a voucher that was not used up is good after a start, too");
    greedy.refused(&vouchers[0]);
    greedy.refused(&vouchers[1]);
}
