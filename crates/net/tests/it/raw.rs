//! A node that speaks the protocol by hand, to say what a real one never says.

use ioex_base::{NodeKey, Uid};
use ioex_net::{
    Mesh,
    door::Door,
    frame,
    proto::{ANSWER_MAX_BYTES, Answer, FriendRequest, Hello, No, Open},
};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey,
    endpoint::{Connection, ConnectionError, RecvStream, SendStream, presets},
};
use serde::de::DeserializeOwned;

pub struct Raw {
    pub key: NodeKey,
    endpoint: Endpoint,
}

impl Raw {
    pub async fn new() -> Self {
        let key = NodeKey::generate().unwrap();
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&key.seed()))
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0")
            .unwrap()
            .bind()
            .await
            .unwrap();
        Self { key, endpoint }
    }

    pub fn uid(&self) -> Uid {
        self.key.uid()
    }

    pub async fn connect(&self, to: &Mesh, door: Door) -> Connection {
        let id = EndpointId::from_bytes(to.uid().as_bytes()).unwrap();
        let addr =
            to.direct_addresses().into_iter().fold(EndpointAddr::new(id), |addr, ip| addr.with_ip_addr(ip));
        self.endpoint.connect(addr, door.alpn()).await.unwrap()
    }

    /// Becomes a friend of `of`, by request.
    pub async fn befriended(of: &Mesh) -> (Self, Connection) {
        let raw = Self::new().await;
        let public = raw.connect(of, Door::Public).await;
        let request =
            FriendRequest { tag: of.friend_address().tag, name: "raw".into(), greeting: String::new() };
        let answer: Answer<()> = ask(&public, &Open::FriendRequest(request)).await.unwrap();
        assert_eq!(answer, Answer::Yes(()));
        of.friend_accept(raw.uid()).await.unwrap();
        let conn = raw.connect(of, Door::Friend).await;
        let hello = Hello { name: "raw".into(), kind: ioex_base::NodeKind::Peer, instance: [1; 16] };
        let answer: Answer<Hello> = ask(&conn, &Open::Hello(hello)).await.unwrap();
        assert!(matches!(answer, Answer::Yes(_)));
        (raw, conn)
    }
}

pub async fn open(conn: &Connection, open: &Open) -> Result<(SendStream, RecvStream), ConnectionError> {
    let (mut send, recv) = conn.open_bi().await?;
    // A connection that was closed meanwhile shows in the read.
    let _ = frame::write(&mut send, open).await;
    Ok((send, recv))
}

/// Asks; the error is the code with which the connection was closed, if it was.
pub async fn ask<T: DeserializeOwned>(conn: &Connection, question: &Open) -> Result<Answer<T>, u64> {
    let code = |e: ConnectionError| match e {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("{other}"),
    };
    let (mut send, mut recv) = open(conn, question).await.map_err(code)?;
    let _ = send.finish();
    match frame::read(&mut recv, ANSWER_MAX_BYTES).await {
        Ok(answer) => Ok(answer),
        Err(_) => Err(code(conn.closed().await)),
    }
}

/// What a question is refused with.
pub async fn refusal(conn: &Connection, question: &Open) -> No {
    match ask::<()>(conn, question).await {
        Ok(Answer::No(no)) => no,
        other => panic!("not refused: {other:?}"),
    }
}
