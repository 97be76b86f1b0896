//! A request that the client has cancelled is dropped at whatever point it has reached. The next user of
//! its connection must not be inside its transaction.

use std::pin::pin;

use customers::postgres::server::Demand;
use customers::postgres::transaction::begin;
use customers::postgres::{Pool, Server};
use futures_util::poll;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::{PATIENCE, empty_database};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_behind_a_transaction_that_was_given_up_at_its_begin_is_there() {
    let url = empty_database().await;
    let server = Server::new(&url, Demand::Primary).unwrap();
    let pool = Pool::new(&server, "test", 1, PATIENCE, &[]);
    pool.execute("create table written (polls integer)").await.unwrap();
    for polls in 0..100 {
        {
            let mut begun = pin!(begin(&pool));
            for _ in 0..polls {
                if poll!(&mut begun).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        sqlx::query("insert into written values ($1)").bind(polls).execute(&pool).await.unwrap();
    }
    let mut other = PgConnection::connect(&url).await.unwrap();
    let written: i64 =
        sqlx::query_scalar("select count(*) from written").fetch_one(&mut other).await.unwrap();
    assert_eq!(written, 100);
}
