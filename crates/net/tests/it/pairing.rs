//! Pairing with a code.

use ioex_net::{friends::pairing::PairError, proto::No};

use crate::support::{Node, bootstrap, device, until};

async fn pair() -> (Node, Node, Node) {
    let boot = bootstrap(&[]).await;
    let (phone, device) = (device(&[boot.seed()]).await, device(&[boot.seed()]).await);
    phone.joined().await;
    device.joined().await;
    (boot, phone, device)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_code_makes_both_friends_once() {
    let (boot, mut phone, mut box_) = pair().await;
    let shown = box_.mesh.pair_show(60);
    assert_eq!(phone.mesh.pair_use(&shown.link, None).await.unwrap(), box_.uid());
    phone.friend_added(box_.uid()).await;
    box_.friend_added(phone.uid()).await;
    let (a, b) = (phone.uid(), box_.uid());
    until("they are connected", || phone.connected(b) && box_.connected(a)).await;
    assert!(phone.mesh.ping(b).await.is_ok());
    let second = device(&[boot.seed()]).await;
    second.joined().await;
    let used = second.mesh.pair_use(&shown.link, None).await;
    assert!(matches!(used, Err(PairError::No(No::Refused(0x11)))), "a code works once: {used:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_wrong_codes_lock_the_right_one() {
    let (_boot, phone, box_) = pair().await;
    let shown = box_.mesh.pair_show(60);
    let digit = |n: u32| char::from_digit(n, 10).unwrap();
    let wrong = |n: u32| -> String {
        let last = shown.code.chars().last().and_then(|c| c.to_digit(10)).unwrap();
        format!("{}{}", &shown.code[..shown.code.len() - 1], digit((last + n) % 10))
    };
    let uid = box_.uid().to_string();
    for n in 1..=5 {
        let got = phone.mesh.pair_use(&uid, Some(&wrong(n))).await;
        match got {
            Err(PairError::No(No::WrongCode)) if n < 5 => {}
            Err(PairError::No(No::CodeLocked)) if n == 5 => {}
            other => panic!("try {n}: {other:?}"),
        }
    }
    let right = phone.mesh.pair_use(&shown.link, None).await;
    assert!(matches!(right, Err(PairError::No(No::CodeLocked))), "{right:?}");
    assert!(phone.mesh.friends().is_empty() && box_.mesh.friends().is_empty());
    let again = box_.mesh.pair_show(60);
    assert!(phone.mesh.pair_use(&again.link, None).await.is_ok(), "a new code works");
}
