//! What a device does for others, and its owner's word over it: real processes, and a super node in
//! this one.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ioex::authority;
use ioex_base::{
    ContentAddress, Grant, GrantId, NodeKey, NodeKind, Right, SealedHead, SignedGrant, Uid, UnixSeconds,
    head_address,
};
use ioex_net::{
    Mesh, MeshConfig, NoHost,
    proto::{AuditAnswer, HeadAnswer, No, PlaceAnswer},
    shards::PlaceError,
};
use ioex_vault::proof::{Proof, verify};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::net::{Net, Node, noise, same, text};

/// The reader key of what is placed here.
fn reader() -> NodeKey {
    NodeKey::from_seed([9; 32])
}

fn in_days(days: u64) -> UnixSeconds {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    UnixSeconds(now + days * ioex_base::DAY_SECONDS)
}

/// A super node in this process, and the grant under which it places.
struct Super {
    runtime: Runtime,
    mesh: Mesh,
    grant: SignedGrant,
    id: GrantId,
}

impl Super {
    fn start(net: &Net) -> Self {
        let runtime = Runtime::new().unwrap();
        let key = NodeKey::generate().unwrap();
        let authority = authority::load(&net.path("authority")).unwrap();
        let mut config = MeshConfig::new(key, net.path("own-super"));
        config.kind = NodeKind::Super;
        config.bind = Some(net.free_ip(0));
        config.seeds = vec![net.seed.parse().unwrap()];
        let subject = config.key.uid();
        let mesh = runtime.block_on(Mesh::start(config, Arc::new(NoHost::default()))).unwrap();
        let until = in_days(0).plus(86_400);
        let (grant, signed): (Grant, _) =
            authority::grant_place(&authority, subject, 1_000_000_000, in_days(0), 90).unwrap();
        assert!(grant.not_after > until && matches!(grant.right, Right::Place { .. }));
        Self { runtime, mesh, grant: signed, id: grant.id }
    }

    fn place(&self, to: Uid, bytes: &Bytes) -> Result<PlaceAnswer, PlaceError> {
        let (reader, address) = (reader().uid(), ContentAddress::of(bytes));
        self.runtime.block_on(self.mesh.shard_place(to, &self.grant, reader, in_days(60), address, bytes))
    }

    fn audit(&self, to: Uid, asks: Vec<(ContentAddress, u32)>) -> Result<AuditAnswer, PlaceError> {
        self.runtime.block_on(self.mesh.shard_audit(to, &self.grant, asks))
    }

    /// The same with a device that was killed and started again: the old link has to end first.
    fn audit_again(&self, to: Uid, asks: &[(ContentAddress, u32)]) -> AuditAnswer {
        let begun = Instant::now();
        loop {
            match self.audit(to, asks.to_vec()) {
                Ok(told) => return told,
                Err(e) => assert!(begun.elapsed() < Duration::from_secs(90), "{e}"),
            }
        }
    }

    fn may_read(&self) -> SignedGrant {
        let grant = Grant {
            id: GrantId([1; 16]),
            subject: self.mesh.uid(),
            right: Right::Fetch,
            not_before: UnixSeconds(0),
            not_after: in_days(1),
        };
        SignedGrant::new(&grant, &reader())
    }
}

fn uid_of(node: &Node) -> Uid {
    node.ask(&["id"])["uid"].as_str().unwrap().parse().unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, PlaceError>) -> No {
    match result {
        Err(PlaceError::No(no)) => no,
        other => panic!("not refused: {other:?}"),
    }
}

fn lender(net: &Net, name: &str, more: &[&str]) -> Node {
    let authority = authority::load(&net.path("authority")).unwrap().uid().to_string();
    let node = net.device(name, 3, &[&["--lend", "30MB", "--authority", &authority], more].concat());
    node.wait_for(&["status"], |s| s["joined"] == true);
    node
}

/// Files and folders below a folder, which must be below `limit` bytes with all their blocks.
fn on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::symlink_metadata(path).unwrap();
    let below = if meta.is_dir() {
        std::fs::read_dir(path).unwrap().flatten().map(|entry| on_disk(&entry.path())).sum()
    } else {
        0
    };
    meta.blocks() * 512 + below
}

#[test]
fn an_owner_sees_and_sets_what_the_device_does_and_it_stays_so() {
    let net = Net::start(0, "0");
    let mut device = lender(&net, "device", &[]);
    let (to, spn) = (uid_of(&device), Super::start(&net));
    let shard = Bytes::from(noise(1_000_000, 1));
    let address = ContentAddress::of(&shard);
    assert_eq!(spn.place(to, &shard).unwrap(), PlaceAnswer::Send);
    let shown = device.ask(&["device", "show"]);
    assert_eq!((&shown["state"], &shown["shards"]), (&Value::from("open"), &Value::from(1)));

    let list = device.ask(&["device", "shards"]);
    let held = &list["shards"][0];
    assert_eq!(held["address"], address.to_string());
    assert_eq!(held["leases"][0]["placer"], spn.mesh.uid().to_string());
    assert_eq!(held["leases"][0]["reader"], reader().uid().to_string());
    assert_eq!((&held["deletable"], &held["head"]), (&Value::from(false), &Value::from(false)));
    let early = device.try_ask(&["device", "delete", &address.to_string()]);
    assert_eq!(early.status.code(), Some(26), "{}", text(&early));
    assert!(text(&early).contains("days"), "{}", text(&early));

    // Off: nothing is answered. After a start as before: as it was set.
    device.ask(&["device", "off"]);
    assert_eq!(refusal(spn.audit(to, vec![(address, 0)])), No::Paused);
    // In order: whoever is connected hears of it, and need not wait for a link that is dead.
    device.ask(&["stop"]);
    device.kill();
    let shown = device.ask(&["device", "show"]);
    assert_eq!((&shown["state"], &shown["enabled"]), (&Value::from("stopped"), &Value::from(false)));
    assert_eq!(shown["shards"], 1);
    // Settings can be changed while no node runs, too.
    device.ask(&["device", "set", "--upload", "3MB/s", "--hours", "always"]);
    device.run();
    let shown = device.ask(&["device", "show"]);
    assert_eq!(
        (&shown["state"], &shown["upload_bytes_per_second"]),
        (&Value::from("off"), &3_000_000.into())
    );
    device.ask(&["device", "on"]);
    device.wait_for(&["status"], |s| s["joined"] == true);
    let told = spn.audit_again(to, &[(address, 7)]);
    let proof = Proof::decode(told.proofs[0].as_deref().unwrap()).unwrap();
    assert!(verify(&address, shard.len() as u64, 7, &proof));

    // Paused by hand: it proves, and neither takes nor sends.
    device.ask(&["device", "set", "--metered", "pause"]);
    assert!(spn.audit(to, vec![(address, 0)]).unwrap().proofs[0].is_some());
    assert_eq!(refusal(spn.place(to, &Bytes::from_static(b"more"))), No::Paused);
    device.ask(&["device", "set", "--metered", "auto"]);
    let may_read = spn.may_read();
    let read = spn.mesh.shard_fetch(to, &may_read, address, shard.len() as u64);
    assert_eq!(spn.runtime.block_on(read).unwrap().0, shard);

    // Less space than is in use, then leaving: it asks to hand over, and keeps all until released.
    let shown = device.ask(&["device", "set", "--space", "500kB"]);
    assert!(shown["handover_bytes"].as_u64() > Some(0), "{shown}");
    let told = spn.audit(to, vec![]).unwrap();
    assert_eq!(told.handover, [address]);
    let head = Bytes::from(SealedHead::sign(&NodeKey::from_seed([3; 32]), 1, b"head"));
    device.ask(&["device", "set", "--space", "30MB"]);
    let put = spn.mesh.head_put(to, &spn.grant, reader().uid(), in_days(60), &head);
    assert_eq!(spn.runtime.block_on(put).unwrap(), HeadAnswer::Kept);
    device.ask(&["device", "leave"]);
    let told = spn.audit(to, vec![]).unwrap();
    assert_eq!(told.handover, [address, head_address(&NodeKey::from_seed([3; 32]).uid())]);
    assert_eq!(refusal(spn.place(to, &Bytes::from_static(b"more"))), No::NoSpace);
    let release = spn.mesh.shard_release(to, &spn.grant, told.handover);
    assert_eq!(spn.runtime.block_on(release).unwrap(), 2);
    let shown = device.ask(&["device", "show"]);
    assert_eq!((&shown["handover_bytes"], &shown["shards"]), (&Value::from(0), &Value::from(0)));
}

#[test]
fn a_device_that_leaves_says_whom_it_waits_for_and_until_when() {
    let net = Net::start(0, "0");
    let device = lender(&net, "device", &[]);
    let (to, spn) = (uid_of(&device), Super::start(&net));
    let shards: Vec<Bytes> = (1..3).map(|n| Bytes::from(noise(500_000, n))).collect();
    for shard in &shards {
        assert_eq!(spn.place(to, shard).unwrap(), PlaceAnswer::Send);
    }
    // One of them is damaged on the disk, which a proof shows.
    let address = ContentAddress::of(&shards[0]);
    let file = crate::backup::shard_files(&device)
        .into_iter()
        .find(|path| std::fs::read(path).unwrap() == shards[0])
        .unwrap();
    std::fs::write(&file, noise(500_000, 9)).unwrap();
    assert!(spn.audit(to, (0..8).map(|leaf| (address, leaf)).collect()).unwrap().proofs[0].is_none());
    let shown = device.ask(&["device", "show"]);
    assert!(
        shown["damaged_bytes"].as_u64() > Some(0) && shown["waiting"] == serde_json::json!([]),
        "{shown}"
    );

    let shown = device.ask(&["device", "leave"]);
    assert_eq!((&shown["damaged_bytes"], &shown["shards"]), (&0.into(), &1.into()), "nobody wants it back");
    assert_eq!(shown["held_until"], device.ask(&["device", "shards"])["shards"][0]["until"]);
    let waiting = &shown["waiting"][0];
    assert_eq!((&waiting["placer"], &waiting["asked"]), (&spn.mesh.uid().to_string().into(), &Value::Null));
    let said = text(&device.command(&["device", "show"]).output().unwrap());
    assert!(said.contains("has not asked") && said.contains("kept until its date"), "{said}");
    let told = spn.audit(to, vec![]).unwrap();
    assert_eq!(told.handover, [ContentAddress::of(&shards[1])]);
    let shown = device.ask(&["device", "show"]);
    assert!(shown["waiting"][0]["asked"].is_number(), "{shown}");
    let release = spn.mesh.shard_release(to, &spn.grant, told.handover);
    assert_eq!(spn.runtime.block_on(release).unwrap(), 1);
    let shown = device.ask(&["device", "show"]);
    assert_eq!((&shown["handover_bytes"], &shown["held_until"]), (&0.into(), &Value::Null));
    assert_eq!(shown["waiting"], serde_json::json!([]));
}

#[test]
fn a_revoked_capability_is_refused() {
    let net = Net::start(0, "0");
    let spn = Super::start(&net);
    let (key, list) = (net.path("authority"), net.path("revoked"));
    let revoke = |node: &Node, id: &str| {
        let (key, list) = (key.to_str().unwrap(), list.to_str().unwrap());
        node.ask(&["authority", "revoke", "--key", key, "--id", id, "--out", list])
    };
    revoke(&net.super_node, "00000000000000000000000000000000");
    let device = lender(&net, "device", &["--revocations", list.to_str().unwrap()]);
    let (to, shard) = (uid_of(&device), Bytes::from(noise(10_000, 1)));
    spn.place(to, &shard).unwrap();
    revoke(&device, &data_encoding::HEXLOWER.encode(&spn.id.0));
    let begun = Instant::now();
    // The device looks at the list every two seconds.
    let refused = loop {
        match spn.audit(to, vec![]) {
            Err(e) => break refusal::<()>(Err(e)),
            Ok(_) => assert!(begun.elapsed() < Duration::from_secs(60), "the list is not read"),
        }
        // poll: another process reads a file again
        std::thread::sleep(Duration::from_millis(100)); // poll: see above
    };
    assert_eq!(refused, No::Refused(0x14));
    assert_eq!(refusal(spn.place(to, &shard)), No::Refused(0x14));
    assert_eq!(refusal(spn.runtime.block_on(spn.mesh.shard_capacity(to, &spn.grant))), No::Refused(0x14));
    // Without its list a device does not start: what was revoked would come in.
    let missing = net.path("missing");
    let output = device
        .command(&["node", "--revocations", missing.to_str().unwrap()])
        .arg("--port")
        .arg("0")
        .output()
        .unwrap();
    assert!(!output.status.success());
}

#[test]
fn what_is_held_survives_a_kill_while_it_is_moved() {
    let net = Net::start(0, "0");
    let mut device = lender(&net, "device", &[]);
    let (to, spn) = (uid_of(&device), Super::start(&net));
    let shards: Vec<Bytes> = (0..40).map(|n| Bytes::from(noise(100_000, n))).collect();
    for shard in &shards {
        spn.place(to, shard).unwrap();
    }
    let places = ["one", "two", "three", "four"].map(|name| net.path(name));
    let without = device.try_ask(&["device", "set", "--dir", places[0].to_str().unwrap()]);
    assert_eq!(without.status.code(), Some(26), "{}", text(&without));
    assert!(text(&without).contains("--move"));
    for (n, place) in places.iter().enumerate() {
        let mut moving = device
            .command(&["device", "set", "--move", "--dir", place.to_str().unwrap()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Each time a little later; at last it comes to its end.
        let begun = Instant::now();
        let wait = Duration::from_millis(if n == 3 { 60_000 } else { 20 * n as u64 + 5 });
        while begun.elapsed() < wait && moving.try_wait().unwrap().is_none() {
            // poll: another process works
            std::thread::sleep(Duration::from_millis(1)); // poll: see above
        }
        device.kill();
        let _ = moving.wait();
        device.run();
        let shown = device.ask(&["device", "show"]);
        assert_eq!(shown["shards"], 40, "after {wait:?}: {shown}");
        assert_eq!(shown["damaged_bytes"], 0);
    }
    for part in shards.chunks(16) {
        let asks: Vec<_> = part.iter().map(|shard| (ContentAddress::of(shard), 3)).collect();
        assert!(spn.audit_again(to, &asks).proofs.iter().all(Option::is_some));
    }
    let shown = device.ask(&["device", "show"]);
    assert_eq!(shown["dir"], places[3].to_str().unwrap());
    // And while no node runs.
    device.kill();
    let back = net.path("back");
    let shown = device.ask(&["device", "set", "--move", "--dir", back.to_str().unwrap()]);
    assert_eq!((&shown["shards"], shown["dir"].as_str()), (&Value::from(40), back.to_str()));
    assert!(!places[3].exists());
    // Its disk is not mounted: an empty folder is there. Nobody makes a store in it, and nobody says that all
    // is handed over.
    let away = net.path("away");
    std::fs::rename(&back, &away).unwrap();
    std::fs::create_dir(&back).unwrap();
    let empty = || std::fs::read_dir(&back).unwrap().count() == 0;
    let shown = device.ask(&["device", "leave"]);
    assert!(shown["why"].as_str().unwrap().contains("mounted") && empty(), "{shown}");
    device.run();
    let said = text(&device.command(&["device", "show"]).output().unwrap());
    assert!(said.contains("mounted") && said.contains("unknown: what is held") && empty(), "{said}");
    device.kill();
    std::fs::remove_dir(&back).unwrap();
    std::fs::rename(&away, &back).unwrap();
    assert_eq!(device.ask(&["device", "show"])["shards"], 40);
    // Another disk, and the owner says so.
    std::fs::rename(&back, &away).unwrap();
    let shown = device.ask(&["device", "set", "--dir", back.to_str().unwrap()]);
    assert_eq!((&shown["shards"], &shown["why"]), (&Value::from(0), &Value::Null));
}

#[test]
fn a_device_filled_over_the_network_stays_below_its_limit_on_disk() {
    let net = Net::start(0, "0");
    let device = lender(&net, "device", &[]);
    let (to, spn) = (uid_of(&device), Super::start(&net));
    device.ask(&["device", "set", "--space", "6MB"]);
    let folder = device.data.join("shards");
    let mut placed = 0;
    for n in 0.. {
        let shard = Bytes::from(noise([300_001, 1, 70_000, 4_097][n as usize % 4], n));
        match spn.place(to, &shard) {
            Ok(_) => placed += 1,
            Err(PlaceError::No(No::NoSpace)) if n % 4 == 1 => break,
            Err(PlaceError::No(No::NoSpace)) => {}
            Err(e) => panic!("{e}"),
        }
        assert!(on_disk(&folder) <= 6_000_000);
    }
    assert!(placed > 20 && on_disk(&folder) > 4_500_000, "{placed} shards, {} bytes", on_disk(&folder));
}

#[test]
fn a_device_that_leaves_is_relieved_by_the_super_node_and_nothing_is_lost() {
    let mut net = Net::start(5, "200MB");
    let tree = net.make_tree("tree");
    let args = ["backup", "create", tree.to_str().unwrap(), "--policy", "replicas=2"];
    net.super_node.ask(&args);
    let held = |node: &Node| node.ask(&["device", "show"])["shards"].as_u64().unwrap();
    let at = (0..net.peers.len()).max_by_key(|n| held(&net.peers[*n])).unwrap();
    let leaver = net.peers.remove(at);
    assert!(held(&leaver) > 0);
    let told = leaver.ask(&["device", "leave"]);
    assert!(told["handover_bytes"].as_u64() > Some(0), "{told}");
    // Each round moves what one answer proposes.
    let mut rounds = 0;
    while held(&leaver) > 0 {
        rounds += 1;
        assert!(rounds <= 10, "{}", leaver.ask(&["device", "show"]));
        net.super_node.ask(&["backup", "repair"]);
    }
    drop(leaver);
    let out = net.path("out");
    net.super_node.ask(&["backup", "restore", out.to_str().unwrap()]);
    same(&tree, &out.join("tree"));
}
