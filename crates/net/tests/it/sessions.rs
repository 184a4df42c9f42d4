//! Sessions and port forwarding (requirement N7).

use std::{net::SocketAddr, time::Duration};

use ioex_net::{
    LinkError,
    forward::{ForwardError, ForwardKind},
    session::{PACKET_MAX_BYTES, StreamKind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use crate::support::{DEADLINE, content, two_friends};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_carries_both_kinds_of_stream() {
    let (_boot, a, b) = two_friends().await;
    let mut service = b.mesh.services("echo");
    tokio::spawn(async move {
        while let Some(mut incoming) = service.recv().await {
            tokio::spawn(async move {
                while let Ok(Some(data)) = incoming.stream.recv(64 * 1024).await {
                    if incoming.stream.send(&data).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let session = a.mesh.session(b.uid(), "echo");
    let mut reliable = session.open(StreamKind::Reliable).await.unwrap();
    let sent = content(1, 300_000);
    let mut back = Vec::new();
    for part in sent.chunks(50_000) {
        reliable.send(part).await.unwrap();
        while back.len() % 50_000 != 0
            || back.is_empty()
            || back.len() < sent.len().min(back.len() / 50_000 * 50_000)
        {
            back.extend_from_slice(&reliable.recv(64 * 1024).await.unwrap().unwrap());
            if back.len() % 50_000 == 0 {
                break;
            }
        }
    }
    while back.len() < sent.len() {
        back.extend_from_slice(&reliable.recv(64 * 1024).await.unwrap().unwrap());
    }
    assert_eq!(back, sent);

    let mut packets = session.open(StreamKind::Datagram).await.unwrap();
    for len in [1, 1_000, 1_200, 5_000, PACKET_MAX_BYTES] {
        let packet = content(len as u64, len);
        // The first packet may overtake the beginning of its stream; none may be lost for that.
        packets.send(&packet).await.unwrap();
        let echo = tokio::time::timeout(DEADLINE, packets.recv(0)).await.expect("an echo").unwrap().unwrap();
        assert_eq!(echo, packet);
    }
    assert!(packets.send(&vec![0; PACKET_MAX_BYTES + 1]).await.is_err());
    let nobody = a.mesh.session(b.uid(), "nothing").open(StreamKind::Reliable).await;
    assert!(matches!(nobody, Err(LinkError::Broken(_))), "{nobody:?}");
}

async fn echo_servers() -> (SocketAddr, SocketAddr) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
            udp.send_to(&buffer[..len], from).await.unwrap();
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_lead_to_allowed_targets_and_nowhere_else() {
    let (_boot, a, b) = two_friends().await;
    let (tcp, udp) = echo_servers().await;
    b.mesh.forward_allow(vec![tcp, udp]);
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();

    let forward = a.mesh.forward_open(b.uid(), ForwardKind::Tcp, local, tcp).await.unwrap();
    let sent = content(2, 1_000_000);
    let stream = TcpStream::connect(forward.listen).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let copy = sent.clone();
    tokio::spawn(async move {
        write.write_all(&copy).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    tokio::time::timeout(DEADLINE, read.read_to_end(&mut back))
        .await
        .expect("the end comes through")
        .unwrap();
    assert_eq!(back, sent);

    let forward = a.mesh.forward_open(b.uid(), ForwardKind::Udp, local, udp).await.unwrap();
    let client = UdpSocket::bind(local).await.unwrap();
    client.connect(forward.listen).await.unwrap();
    for len in [1, 1_000, 8_000] {
        let packet = content(3, len);
        client.send(&packet).await.unwrap();
        let mut buffer = vec![0; 65_536];
        let got = tokio::time::timeout(DEADLINE, client.recv(&mut buffer)).await.expect("an echo").unwrap();
        assert_eq!(buffer[..got], packet);
    }

    // Same service, not on the list any more: nothing passes.
    b.mesh.forward_allow(vec![]);
    let forbidden = a.mesh.forward_open(b.uid(), ForwardKind::Tcp, local, tcp).await.unwrap();
    let mut stream = TcpStream::connect(forbidden.listen).await.unwrap();
    let _ = stream.write_all(b"x").await;
    let mut back = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut back)).await.expect("it is closed");
    assert!(back.is_empty(), "{ended:?}");
    assert!(a.mesh.warnings().iter().any(|w| w.contains(&tcp.to_string())), "{:?}", a.mesh.warnings());

    assert_eq!(a.mesh.forwards().len(), 3);
    a.mesh.forward_close(forward.id).unwrap();
    assert!(matches!(a.mesh.forward_close(forward.id), Err(ForwardError::Unknown(_))));
    client.send(b"late").await.ok();
    let mut buffer = [0; 10];
    let silent = tokio::time::timeout(Duration::from_millis(100), client.recv(&mut buffer)).await;
    assert!(!matches!(silent, Ok(Ok(_))), "a closed forward carries nothing");
}
