overall-empty = No components yet
overall-checking = Checking the systems
overall-unknown = No data
overall-operational = All systems operational
overall-operational-known = No known problems
overall-maintenance = Maintenance under way
overall-degraded = Some systems have degraded performance
overall-partial = Some systems are down
overall-major = The systems are down
without-data = { PLURAL($count) ->
    [one] There is no data about one component.
   *[other] There is no data about { $count } components.
}
checking-hint = The collector has just started; the first data arrives in less than a minute.
empty-hint = Systems appear here as soon as the first of them sends data.
state-operational = Operational
state-degraded = Degraded performance
state-partial = Partial outage
state-major = Major outage
state-maintenance = Maintenance
state-unknown = No data
state-checking = Checking
components = Components
last-24-hours = Last 24 hours
hours-ago = 24 hours ago
now = now
uptime = { $percent } uptime
uptime-none = uptime unknown
in-words = In words
word-share = { $state }: { $span }
all-good = Nothing unusual in the last 24 hours.
change = { $from } to { $to }
hours = { PLURAL($count) ->
    [one] one hour
   *[other] { $count } hours
}
minutes = { PLURAL($count) ->
    [one] one minute
   *[other] { $count } minutes
}
days = { PLURAL($count) ->
    [one] one day
   *[other] { $count } days
}
span-two = { $first } and { $second }
under-a-minute = less than a minute
legend = Legend
method-title = How this is counted
method = Uptime is the part of the known time in which the component worked, degraded performance included. Outages, partial or major, count against it in full. Time without data and maintenance are not counted. Each bar is half an hour and shows its worst state.
updated = Updated
date-time = { $day } { $month } { $year }, { $time }
other-language = Română
other-language-hint = Această pagină în română
skip = Skip to content
title-separator = { $overall } – { $name }
not-found-title = Page not found
not-found = There is nothing at this address.
to-status = To the service status
month-1 = January
month-2 = February
month-3 = March
month-4 = April
month-5 = May
month-6 = June
month-7 = July
month-8 = August
month-9 = September
month-10 = October
month-11 = November
month-12 = December
