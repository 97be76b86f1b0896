//! The three tables of one name that a projection can have at a time.

use crate::postgres::Connection;

/// The schema that holds a projection's table (migration 0008). The table has the same name in each,
/// so the same statements serve all three, under another `search_path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableSlot {
    /// Served.
    Live,
    /// Filled by a rebuild, on standby until it is swapped in.
    Shadow,
    /// Replaced by the last rebuild, on standby for a rollback.
    Previous,
}

impl TableSlot {
    /// Its name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "public",
            Self::Shadow => "shadow",
            Self::Previous => "previous",
        }
    }

    /// Makes the later statements of the transaction use the table in this slot.
    pub(super) async fn enter(self, transaction: &mut Connection) -> Result<(), sqlx::Error> {
        let path = match self {
            Self::Live => "public",
            Self::Shadow => "shadow, public",
            Self::Previous => "previous, public",
        };
        sqlx::query!("select set_config('search_path', $1, true)", path)
            .fetch_one(transaction)
            .await?;
        Ok(())
    }
}
