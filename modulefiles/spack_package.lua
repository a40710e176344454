{# Extends Spack's own template: description, version, origin and release. Spack renders it. #}
{% extends "modules/modulefile.lua" %}
{# Without the time, a module that is written again has the same checksum. #}
{% set timestamp = "the node that made release @RELEASE@" %}
{% block header %}
whatis([==[Name: {{ spec.name }}]==])
whatis([==[Version: {{ spec.version }}]==])
{% if short_description %}
whatis([==[Description: {{ short_description }}]==])
{% endif %}
whatis([==[Target: {{ spec.target }}]==])
{% if configure_options %}
whatis([==[Configured with: {{ configure_options }}]==])
{% endif %}
whatis([==[From: Spack @SPACK@, {{ spec.namespace }}.{{ spec.name }} /{{ spec.dag_hash(7) }}]==])
whatis([==[Release: @RELEASE@]==])

help([==[{{ spec.name }} {{ spec.version }}
{% if long_description %}

{{ long_description | textwrap(72) | join() }}
{% endif %}

{{ "Part of the machine image" if spec.external else "Built by Spack @SPACK@" }} in {{ spec.prefix }}
as {{ spec.format("{name}{@version}{variants}") }}, release @RELEASE@.]==])
{% endblock %}
