//! The examples, run as they stand.

use crate::server::{Memcached, patient};

#[path = "../../examples/cost.rs"]
mod cost;
#[path = "../../examples/limiter.rs"]
mod limiter;
#[path = "../../examples/pages.rs"]
mod pages;
#[path = "../../examples/users.rs"]
mod users;

#[tokio::test]
async fn a_page_is_made_once_for_each_version() {
    for server in Memcached::each() {
        let outcome = pages::run(patient([server.address()])).await.unwrap();
        assert_eq!(outcome, (2, "version 2".to_owned()));
    }
}

#[tokio::test]
async fn all_of_a_user_lies_on_one_server() {
    let servers = Memcached::each();
    if servers.is_empty() {
        return;
    }
    let addresses = servers.iter().map(Memcached::address);
    let metrics = users::run(patient(addresses)).await.unwrap();
    assert_eq!(metrics.len(), servers.len());
    assert!(
        metrics.iter().all(|server| server.operations > 0),
        "{metrics:?}"
    );
}

#[test]
fn all_threads_together_are_let_in_ten_times() {
    for server in Memcached::each() {
        assert_eq!(limiter::run(patient([server.address()])).unwrap(), 10);
    }
}

#[tokio::test]
async fn the_cost_of_every_call_is_told() {
    for server in Memcached::each() {
        let costs = cost::run(patient([server.address()]), 3).await.unwrap();
        assert_eq!(costs.len(), 6);
    }
}
