//! Specs of a host while the seat goes from plane to plane: one line of generations.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use pf9_hostagent::model::{HostId, SigningKey};
use pf9_plane::testing::Orders;

use super::cluster::{Cluster, Mode};
use super::soon;

/// The specs that a host has been given, by generation, whichever plane it asked.
#[derive(Default)]
struct Line(BTreeMap<u64, String>);

impl Line {
    /// Asks this plane; returns the generation.
    fn ask(&mut self, plane: &Orders, host: HostId) -> u64 {
        let (generation, spec) = plane.spec(host).expect("a spec");
        let known = self.0.entry(generation).or_insert_with(|| spec.clone());
        assert_eq!(*known, spec, "two specs of generation {generation}");
        generation
    }
}

/// Two planes are told at once to change the same host. The one with the seat is cut from etcd, and its lease ends before
/// what it was told arrives there; the other has the seat then, and orders of its own. Whichever of them the host asks at
/// any time, a generation is one document, and each order that was answered is one generation, without a gap.
#[tokio::test]
async fn generations_of_specs_are_one_line_whoever_has_the_seat() {
    let cluster = Cluster::start();
    let (ways, by) = cluster.ways().await;
    let set = |mode| ways.iter().for_each(|way| way.set(mode));
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("tempdir"));
    let (key, host) = (
        Arc::new(SigningKey::generate().expect("key").0),
        HostId::random(),
    );
    let mut line = Line::default();
    let place = cluster.place_by(&by);
    let first = soon(Orders::open(&place, dirs[0].path(), &key)).await;
    let first = first.expect("the seat");
    assert_eq!(first.order(host, "one").await, Ok(1));
    assert_eq!(line.ask(&first, host), 1);

    set(Mode::Cut);
    let late = first.order(host, "late");
    let place = cluster.place();
    let other = async {
        let second = Orders::open(&place, dirs[1].path(), &key).await;
        let second = second.expect("the seat");
        assert_eq!(line.ask(&second, host), 1, "what was acknowledged");
        let orders = ["two", "three", "four"].map(|reason| second.order(host, reason));
        let given = join_all(orders).await.into_iter();
        let mut given: Vec<u64> = given.map(|g| g.expect("a generation")).collect();
        given.sort_unstable();
        assert_eq!(given, [2, 3, 4], "of those that were given at once");
        set(Mode::Open);
        second
    };
    let (late, second) = soon(Box::pin(async { tokio::join!(late, other) })).await;
    assert!(late.is_err(), "{late:?}");
    let later = first.order(host, "later").await;
    assert!(later.is_err(), "{later:?}");
    // The one without the seat gives what it gave before, and nothing that it was told since.
    assert_eq!(line.ask(&first, host), 1);
    assert_eq!(line.ask(&second, host), 4);
    assert_eq!(second.order(host, "five").await, Ok(5));
    assert_eq!(line.ask(&second, host), 5);
    second.leave().await;

    let third = soon(Orders::open(&place, dirs[2].path(), &key)).await;
    let third = third.expect("the seat");
    assert_eq!(line.ask(&third, host), 5);
    assert_eq!(third.order(host, "six").await, Ok(6));
    assert_eq!(line.ask(&third, host), 6);
    assert_eq!(line.ask(&first, host), 1);
    third.leave().await;
}
