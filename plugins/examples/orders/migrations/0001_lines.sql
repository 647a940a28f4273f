-- An event may arrive twice: its id tells whether it is here already.
create table lines (
  event text primary key,
  item text not null,
  quantity integer not null
);
