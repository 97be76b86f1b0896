//! A request that the client has cancelled is dropped at whatever point it has reached. The next user of
//! its connection must not be inside its transaction.

use std::pin::pin;

use customers::postgres::kept::KeptConnection;
use customers::postgres::server::Demand;
use customers::postgres::transaction::begin;
use customers::postgres::{Pool, Server};
use futures_util::poll;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_is_outside_of_what_was_given_up_or_lost() {
    let url = empty_database().await;
    let server = Server::new(&url, Demand::Primary).unwrap();
    let pool = Pool::new(&server, "kept", 1, PATIENCE, &[]);
    let mut other = PgConnection::connect(&url).await.unwrap();
    other.execute("create table written (round integer)").await.unwrap();
    let prepare = "prepare held as select count(*) from written;
                   prepare note (integer) as insert into written values ($1)";
    let mut kept = KeptConnection::new(pool, prepare.to_owned());
    for round in 0..40 {
        let polls = round / 2;
        {
            let mut begun = pin!(kept.begin("execute held"));
            for _ in 0..polls {
                if poll!(&mut begun).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        if round % 4 == 0 {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'kept'";
            other.execute(end).await.unwrap();
        }
        // What is dropped in the middle is not there.
        let (mut dropped, _) = kept.begin("execute held").await.unwrap();
        dropped.execute(&*format!("execute note ({})", -1 - round)).await.unwrap();
        drop(dropped);
        let (transaction, rows) = kept.begin("execute held").await.unwrap();
        assert_eq!(rows[0].get::<i64, _>(0), i64::from(round), "round {round}");
        transaction.commit_with(&format!("execute note ({round})")).await.unwrap();
    }
    let written: Vec<i32> = sqlx::query_scalar("select round from written order by round")
        .fetch_all(&mut other)
        .await
        .unwrap();
    assert_eq!(written, (0..40).collect::<Vec<i32>>());
}
